"""Text encoders with adapters in them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_pipelines
import torch
from torch import nn

from diffusion_train.adapter.lora import LoRA, lora_layers, merge
from diffusion_train.conditioner.base import Conditioner
from diffusion_train.conditioner.clip_text import CLIPText
from diffusion_train.conditioner.joint import Joint
from diffusion_train.conditioner.label import Label
from diffusion_train.conditioner.none import NoCondition
from diffusion_train.conditioner.sdxl import SDXL
from diffusion_train.conditioner.t5 import T5
from diffusion_train.conditioner.text.text_conditioner import Text
from diffusion_train.training.weights import trainable_state

pytest.importorskip("diffusers")
BATCH = {"caption": ["red apple", "", "a cat", "red apple"], "target_size": torch.tensor([[64, 64]] * 4)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {name: tiny_pipelines.make(name, folder / name) for name in ("sd15", "sdxl")}


@pytest.fixture(params=["sd15", "sdxl"])
def make(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Callable[[], Conditioner]:
    folder = str(folders[request.param])
    if request.param == "sdxl":
        return lambda: SDXL(folder)
    return lambda: Text(CLIPText(folder, 77, "text_encoder", "tokenizer"))


def adapted(conditioner: Conditioner, **settings: object) -> Conditioner:
    conditioner.adapt(LoRA(4, text_encoder=settings.pop("targets", True), **settings).on_text_encoder)  # type: ignore[arg-type]
    return conditioner


def disturb(conditioner: nn.Module) -> None:
    torch.manual_seed(0)
    for layer in lora_layers(conditioner).values():
        nn.init.normal_(layer.lora_B["default"].weight, std=0.3)


def test_nothing_changes_at_the_start(make: Callable[[], Conditioner]) -> None:
    """Within rounding: a frozen encoder embeds 8 rows at once, an adapted one as many as there are captions."""
    frozen, fresh = make(), adapted(make())
    for before, after in ((frozen(BATCH), fresh(BATCH)), (frozen.null(3), fresh.null(3))):
        torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)


def test_a_gradient_reaches_every_adapter_and_nothing_else(make: Callable[[], Conditioner]) -> None:
    """What a network would be told is used whole; several processes wait for a gradient of each weight."""
    conditioner = adapted(make())
    disturb(conditioner)
    exact = conditioner(BATCH)
    with torch.autocast("cpu", torch.bfloat16):
        cond = conditioner(BATCH)
    assert all(torch.equal(value, exact[name]) for name, value in cond.items())
    sum(value.square().sum() for value in cond.values()).backward()
    names = {name for name, p in conditioner.named_parameters() if p.grad is not None and p.grad.any()}
    assert (
        names == trainable_state(conditioner).keys() == {name for name in conditioner.state_dict() if ".lora_" in name}
    )


def test_what_was_kept_before_is_not_used(make: Callable[[], Conditioner], cache: Path) -> None:
    make().warm_up(BATCH["caption"])
    (kept,) = (cache / "text").iterdir()
    before = kept.read_bytes()
    conditioner = adapted(make())
    disturb(conditioner)
    conditioner.warm_up([*BATCH["caption"], "a dog"])
    after = conditioner(BATCH)
    for name in ("text", "pooled"):
        assert (after[name] - make()(BATCH)[name]).abs().amax(-1).min() > 1e-3
    assert [file.read_bytes() for file in (cache / "text").iterdir()] == [before]


def test_a_caption_s_embedding_knows_nothing_of_the_others(make: Callable[[], Conditioner]) -> None:
    conditioner = adapted(make()).eval()
    disturb(conditioner)
    together = conditioner(BATCH)
    for row, caption in enumerate(BATCH["caption"]):
        alone = conditioner({"caption": [caption], "target_size": BATCH["target_size"][:1]})
        for name, value in alone.items():
            torch.testing.assert_close(together[name][row], value[0], rtol=1e-5, atol=1e-5)


def test_the_encoder_of_transformers_with_merged_weights_gives_the_same(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    """Its file then holds W + scale * alpha / rank * B A, and nothing here but the reader of files sees it."""
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(folders["sd15"], tmp_path / "merged")
    conditioner = adapted(Text(CLIPText(str(folder), 77, "text_encoder", "tokenizer")), alpha=2, scale=0.5).eval()
    disturb(conditioner)
    after = conditioner(BATCH)
    file = folder / "text_encoder" / "model.safetensors"
    merged = merge(conditioner).state_dict()
    save_file({name: merged[f"online.text_encoder.{name}"].contiguous() for name in load_file(file)}, file)
    read = Text(CLIPText(str(folder), 77, "text_encoder", "tokenizer"))(BATCH)
    for name, value in after.items():
        torch.testing.assert_close(value, read[name], rtol=1e-5, atol=1e-5)


def test_long_captions_are_told_once(make: Callable[[], Conditioner]) -> None:
    conditioner = adapted(make())
    batch = BATCH | {"caption": ["dog " * 100, "cat", "dog " * 100, ""]}
    with pytest.warns(UserWarning, match="1 captions are longer than the text encoder's 77 tokens"):
        conditioner(batch)


def test_targets_are_names_as_they_end(folders: dict[str, Path]) -> None:
    conditioner = adapted(SDXL(str(folders["sdxl"])), targets=["q_proj", "fc1"])
    assert {name.rpartition(".")[2] for name in lora_layers(conditioner)} == {"q_proj", "fc1"}
    with pytest.raises(ValueError, match=r"adapter\.text_encoder=to_q: no layer of OnlineText matches.*q_proj"):
        adapted(SDXL(str(folders["sdxl"])), targets=["to_q"])


@pytest.mark.parametrize("kind", ["none", "label", "joint", "t5"])
def test_others_refuse(kind: str, t5_folder: Path) -> None:
    conditioner = {
        "none": NoCondition,
        "label": lambda: Label(3),
        "joint": lambda: Joint({"label": Label(3)}),
        "t5": lambda: Text(T5(str(t5_folder))),
    }[kind]()
    with pytest.raises(ValueError, match=r"adapter\.text_encoder: .*Stable Diffusion 1, 2 or XL"):
        adapted(conditioner)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"text_encoder_lr": 1e-5}, "add adapter.text_encoder=true"),
        ({"text_encoder_lr": -1e-5, "text_encoder": True}, "at least 0"),
    ],
)
def test_a_learning_rate_that_cannot_be(settings: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=f"adapter.text_encoder_lr=.*{told}"):
        LoRA(**settings)  # type: ignore[arg-type]


def test_the_names_of_published_pipelines(make: Callable[[], Conditioner], folders: dict[str, Path]) -> None:
    """Some versions of transformers leave text_model out: what is saved must not depend on that."""
    names = [name.partition("online.")[2] for name in trainable_state(adapted(make()))]
    assert all(name.split(".")[1:4] == ["text_model", "encoder", "layers"] for name in names)
    parts = {name.split(".")[0] for name in names}
    index = json.loads((folders["sdxl" if "text_encoder_2" in parts else "sd15"] / "model_index.json").read_text())
    assert parts == {name for name in index if name.startswith("text_encoder")}
