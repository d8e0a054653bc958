"""A whole run that trains adapters in its text encoder, beside those of its network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny_pipelines
import torch
from safetensors import safe_open
from torch import Tensor, nn

from diffusion_train.adapter.lora import LoRA
from diffusion_train.conditioner.clip_text import CLIPText
from diffusion_train.conditioner.text.text_conditioner import Text
from diffusion_train.data.points import PointsDataset
from diffusion_train.network.mlp import MLP
from diffusion_train.pipeline import Pipeline
from diffusion_train.sampler.ddim import DDIM
from diffusion_train.sampler.grid import Uniform
from diffusion_train.training.checkpoint.checkpoint_file import load, newest_whole
from diffusion_train.training.weights import checkpoint_weights, trainable_state

pytest.importorskip("diffusers")
Run = Callable[..., tuple[Any, Any]]


class TextMLP(nn.Module):
    """Points, moved by what the text says."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp, self.text = MLP(in_channels=2, width=16, depth=2), nn.Linear(24, 2)

    def forward(self, x: Tensor, t: Tensor, *, text: Tensor, pooled: Tensor) -> Tensor:
        output: Tensor = self.mlp(x, t) + self.text(text.mean(1))
        return output


class Captioned(PointsDataset):
    def read(self, draws: Sequence[Any]) -> list[dict[str, Any]]:
        words = tiny_pipelines.WORDS
        return [row | {"caption": words[row["index"] % len(words)]} for row in super().read(draws)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipelines.sd15(tmp_path_factory.mktemp("model") / "sd15")


@pytest.fixture
def run(run_points: Run, folder: Path) -> Run:
    def run(run_dir: Path, max_steps: int, dropout: float = 0.2, **settings: Any) -> tuple[Any, Any]:
        lora = LoRA(rank=4, targets=".*", dropout=dropout, text_encoder=True)
        torch.manual_seed(0)
        conditioner = Text(CLIPText(str(folder), 77, "text_encoder", "tokenizer"))
        conditioner.adapt(lora.on_text_encoder)
        given = {"network": TextMLP(), "conditioner": conditioner, "adapter": lora, "condition_dropout": 0.3}
        return run_points(run_dir, max_steps, dataset=Captioned("two_moons", 40), batch_size=4, **given | settings)

    return run


def test_6_steps_are_2_and_4_bit_for_bit(run: Run, tmp_path: Path) -> None:
    whole, recorded = run(tmp_path / "a", 6)
    run(tmp_path / "b", 2)
    continued, rest = run(tmp_path / "b", 6, resume=newest_whole(tmp_path / "b" / "checkpoints"))
    assert torch.equal(torch.stack(recorded.losses[2:]), torch.stack(rest.losses))
    for name, value in trainable_state(whole.trainable_modules).items():
        assert torch.equal(value, trainable_state(continued.trainable_modules)[name]), name
    files = [(tmp_path / run / "weights.safetensors").read_bytes() for run in "ab"]
    assert files[0] == files[1]


def test_the_encoder_s_adapters_move_and_are_saved_and_averaged_and_nothing_else_of_it(
    run: Run, tmp_path: Path
) -> None:
    module, _ = run(tmp_path, 3)
    checkpoint = load(tmp_path / "checkpoints" / "last.ckpt")
    with safe_open(tmp_path / "weights.safetensors", "pt") as file:
        names = set(file.keys())
    assert names == {name for name, p in module.named_parameters() if p.requires_grad} == set(checkpoint["state_dict"])
    encoder = {name for name in names if name.startswith("conditioner.online.text_encoder.text_model.")}
    assert len(encoder) == 2 * 4 * 3
    assert all(".lora_" in name for name in names)
    assert all(set(average) == names for average in checkpoint["ema"]["averages"])
    assert all(module.get_parameter(name).any() for name in encoder)
    averaged = checkpoint_weights(checkpoint, averaged=True)
    assert all(torch.equal(averaged[name], checkpoint["ema"]["averages"][0][name]) for name in names)
    with module.ema.averaged(1):
        assert all(torch.equal(module.get_parameter(name), checkpoint["ema"]["averages"][1][name]) for name in encoder)


def test_the_encoder_has_its_own_learning_rate(run: Run, tmp_path: Path) -> None:
    """Adam's first step is as long as the rate, whatever the gradient; the schedule's first factor is 1 / 3."""
    module, _ = run(tmp_path, 1, lr=3e-3, conditioner_lr=3e-5, dropout=0.0)
    for name, p in module.named_parameters():
        if ".lora_B." in name and p.any():
            longest = p.detach().abs().max().item()
            assert longest == pytest.approx(1e-5 if name.startswith("conditioner.") else 1e-3, rel=0.02), name


def test_dropout_is_the_trainings_alone(run: Run, tmp_path: Path) -> None:
    module, _ = run(tmp_path, 2, dropout=0.5)
    batch = {"caption": ["red", "cat"]}
    module.on_train_start()
    assert not torch.equal(module.conditioner(batch)["text"], module.conditioner(batch)["text"])
    pipeline = Pipeline(module.network, module.diffusion, DDIM(4, Uniform()), (2,), module.conditioner)
    assert torch.equal(pipeline.sample([0, 1], batch), pipeline.sample([0, 1], batch))
    assert module.conditioner.training


def test_no_condition_is_what_the_adapted_encoder_says_of_nothing(run: Run, tmp_path: Path) -> None:
    module, _ = run(tmp_path, 5, lr=0.1)
    null = module.conditioner.eval().null(2)["text"]
    frozen = Text(module.conditioner.encoder).null(2)["text"]
    torch.testing.assert_close(null[0], null[1])  # two rows of one product, which may lie in different tiles
    assert not torch.allclose(null, frozen, atol=1e-3)
