import csv
import json
from pathlib import Path

import pytest
import torch

from diffusion_train.adapter.lora import LoRA
from diffusion_train.callbacks.bad_samples import BadSamples
from diffusion_train.callbacks.scalars import NumericalError
from diffusion_train.callbacks.skipped_steps import SkippedSteps
from diffusion_train.data.points import PointsDataset
from diffusion_train.training.checkpoint.checkpoint_file import load, newest_whole
from diffusion_train.training.lr_schedule import Cosine
from diffusion_train.training.optimizer import adamw
from diffusion_train.training.precision import shorten_frozen


def same(a, b) -> bool:
    """Whether two checkpoints hold the same numbers, bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


STATE = ("state_dict", "ema", "optimizer_states", "lr_schedulers", "global_step")


@pytest.mark.parametrize(("num_workers", "precision"), [(0, "32-true"), (2, "32-true"), (0, "bf16-mixed")])
def test_seven_and_thirteen_steps_are_twenty(tmp_path: Path, run_points, num_workers: int, precision: str) -> None:
    _, whole = run_points(tmp_path / "a", 20, precision=precision)
    _, first = run_points(tmp_path / "b", 7, precision=precision)
    newest = newest_whole(tmp_path / "b" / "checkpoints")
    _, second = run_points(tmp_path / "b", 20, resume=newest, num_workers=num_workers, precision=precision)
    assert first.keys + second.keys == whole.keys
    assert same(first.losses + second.losses, whole.losses)
    a, b = (load(newest_whole(tmp_path / name / "checkpoints")) for name in "ab")
    assert all(same(a[name], b[name]) for name in STATE)


@pytest.mark.parametrize("broken", ["cursor", "ema", "optimizer"])
def test_a_broken_restore_is_caught(tmp_path: Path, run_points, broken: str) -> None:
    run_points(tmp_path / "a", 20)
    run_points(tmp_path / "b", 7)
    path = newest_whole(tmp_path / "b" / "checkpoints")
    checkpoint = torch.load(path, weights_only=True)
    if broken == "cursor":
        checkpoint["diffusion_train"]["cursor"] += 1
    elif broken == "ema":
        checkpoint["ema"]["averages"].reverse()
    else:
        del checkpoint["optimizer_states"][0]["state"][0]
    torch.save(checkpoint, path)
    run_points(tmp_path / "b", 20, resume=path)
    a, b = (load(newest_whole(tmp_path / name / "checkpoints")) for name in "ab")
    assert not all(same(a[name], b[name]) for name in STATE)


@pytest.mark.parametrize("size", [4, 5, 12, 100])
def test_micro_batches_change_nothing(tmp_path: Path, run_points, size: int) -> None:
    whole, recorded = run_points(tmp_path / "a", 5, precision="64-true")
    split, recorded_split = run_points(tmp_path / "b", 5, precision="64-true", micro_batch_size=size)
    torch.testing.assert_close(recorded_split.losses, recorded.losses)
    for name, value in whole.network.state_dict().items():
        torch.testing.assert_close(split.network.state_dict()[name], value, rtol=0, atol=1e-9)


def test_the_row_of_a_step_is_the_mean_over_its_batch(tmp_path: Path, run_points) -> None:
    _, recorded = run_points(tmp_path, 4, micro_batch_size=5)
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4]
    assert [float(row["train/loss"]) for row in rows] == pytest.approx([float(loss.mean()) for loss in recorded.losses])


def test_the_global_generator_does_not_matter(tmp_path: Path, run_points) -> None:
    import pytorch_lightning as pl

    class Disturbance(pl.Callback):
        def on_train_batch_end(self, *args) -> None:
            torch.rand(3)

    _, quiet = run_points(tmp_path / "a", 5)
    _, disturbed = run_points(tmp_path / "b", 5, callbacks=(Disturbance(),))
    assert same(quiet.losses, disturbed.losses)


def test_gradients_that_stay_infinite_end_the_run_with_good_weights(tmp_path: Path, run_points) -> None:
    import pytorch_lightning as pl

    class Poison(pl.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
            if trainer.global_step >= 4:
                batch["x"].fill_(1e30)  # finite, but not its square

    with pytest.raises(NumericalError, match="3 steps in a row"):
        run_points(tmp_path, 20, callbacks=(Poison(),), every_n_steps=6)
    checkpoint = load(newest_whole(tmp_path / "checkpoints"))
    assert checkpoint["global_step"] == 6
    assert checkpoint["skipped_in_a_row"] == 2
    assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())


OPTIMIZERS = pytest.mark.parametrize(
    "optimizer", [adamw, torch.optim.AdamW, torch.optim.SGD], ids=["fused", "adamw", "sgd"]
)


@OPTIMIZERS
def test_float16_trains_as_float32_does(tmp_path: Path, run_points, optimizer) -> None:
    """Also with optimizers that leave it to Lightning to divide the gradients by their scale."""
    start, _ = run_points(tmp_path / "start", 0, optimizer=optimizer)
    long, short = (run_points(tmp_path / str(f), 8, float16=f, optimizer=optimizer, lr=0.01)[0] for f in (False, True))
    assert short.skipped_in_a_row == 0
    assert short.trainer.precision_plugin.scaler.get_scale() == 2**16
    begin, *ends = (torch.nn.utils.parameters_to_vector(run.network.parameters()) for run in (start, long, short))
    assert torch.nn.functional.cosine_similarity(*(end - begin for end in ends), dim=0) > 0.99


@pytest.mark.parametrize("float16", [False, True], ids=["float32", "float16"])
@OPTIMIZERS
def test_a_skipped_step_moves_no_weight_average_or_learning_rate(
    tmp_path: Path, run_points, optimizer, float16: bool
) -> None:
    """Two of eight steps are skipped; a checkpoint between a skipped step and the next one changes nothing."""
    import pytorch_lightning as pl

    rates = []

    class Poison(pl.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
            self.before = [p.detach().clone() for p in (*module.network.parameters(), *module.ema.average().values())]
            if trainer.global_step in (3, 4):
                batch["x"].fill_(1e30)

        def on_before_optimizer_step(self, trainer, module, optimizer) -> None:
            if trainer.global_step not in (3, 4):
                rates.append(optimizer.param_groups[0]["lr"])

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
            now = (*module.network.parameters(), *module.ema.average().values())
            unmoved = all(torch.equal(a, b) for a, b in zip(self.before, now, strict=True))
            assert unmoved == (trainer.global_step in (4, 5))

    given = {"callbacks": (Poison(),), "optimizer": optimizer, "float16": float16, "lr": 0.01}
    run_points(tmp_path / "a", 8, **given)
    assert rates == [0.01 * Cosine(20, 2)(step) for step in range(6)]
    run_points(tmp_path / "b", 5, **given)
    run_points(tmp_path / "b", 8, resume=newest_whole(tmp_path / "b" / "checkpoints"), **given)
    a, b = (load(newest_whole(tmp_path / name / "checkpoints")) for name in "ab")
    assert all(same(a[name], b[name]) for name in STATE)
    assert a["lr_schedulers"][0]["last_epoch"] == 6


@pytest.mark.parametrize("size", [None, 4])
def test_samples_that_are_no_numbers_are_replaced_and_recorded(tmp_path: Path, run_points, size: int | None) -> None:
    dataset = PointsDataset("two_moons", 40)
    dataset.points[[7, 9]] = torch.tensor([[float("nan")], [float("inf")]], dtype=dataset.points.dtype)
    callbacks = (BadSamples(tmp_path, max_share=0.05),)
    module, recorded = run_points(tmp_path, 4, dataset=dataset, micro_batch_size=size, callbacks=callbacks)
    assert module.skipped_in_a_row == 0
    assert all(loss.isfinite().all() for loss in recorded.losses)
    bad = [json.loads(line) for line in (tmp_path / "bad_samples.jsonl").read_text().splitlines()]
    assert sorted(line["key"] for line in bad) == ["000000007", "000000009"]  # once, in more than an epoch
    assert {line["rule"] for line in bad} == {"not-finite"}


def test_a_micro_batch_without_numbers_skips_the_step(tmp_path: Path, run_points) -> None:
    dataset = PointsDataset("two_moons", 40)
    dataset.points[7] = float("nan")
    callbacks = (BadSamples(tmp_path, max_share=0.05), SkippedSteps(tmp_path))
    _, recorded = run_points(tmp_path, 4, dataset=dataset, micro_batch_size=1, callbacks=callbacks)
    skipped = [json.loads(line) for line in (tmp_path / "skipped_steps.jsonl").read_text().splitlines()]
    assert [line["step"] for line in skipped] == [
        step + 1 for step, keys in enumerate(recorded.keys) if "000000007" in keys
    ]
    assert len((tmp_path / "bad_samples.jsonl").read_text().splitlines()) == 1


def test_mixed_precision_multiplies_frozen_weights_as_they_are_kept(tmp_path: Path, run_points) -> None:
    adapter = LoRA(rank=4, targets=".*")

    def shortened(network: torch.nn.Module) -> torch.nn.Module:
        shorten_frozen(adapter(network), "bf16-mixed")
        return network

    _, whole = run_points(tmp_path / "a", 6, precision="bf16-mixed", adapter=adapter)
    module, short = run_points(tmp_path / "b", 6, precision="bf16-mixed", adapter=shortened)
    layers = [layer for layer in module.network.modules() if isinstance(layer, torch.nn.Linear)]
    assert {(p.requires_grad, p.dtype) for layer in layers for p in layer.parameters(recurse=False)} == {
        (False, torch.bfloat16),
        (True, torch.float32),
    }
    assert same(short.losses, whole.losses)
    weights = [(tmp_path / name / "weights.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]


OTHER = {
    "seed": {"seed": 1},
    "data": {"num_samples": 41},
    "data.batch_size": {"batch_size": 8},
    "trainer.precision": {"precision": "bf16-mixed"},
}


def test_what_differs_from_the_checkpoint_is_refused_by_name_unless_allowed(tmp_path: Path, run_points) -> None:
    run_points(tmp_path, 2)
    path = newest_whole(tmp_path / "checkpoints")
    for name, settings in OTHER.items():
        with pytest.raises(ValueError, match=rf"{name}: .* in the checkpoint.*\n.*allow_mismatch=\[{name}\]"):
            run_points(tmp_path, 4, resume=path, **settings)
        module, recorded = run_points(tmp_path, 4, resume=path, allow_mismatch=(name,), **settings)
        assert module.trainer.global_step == 4
        assert len(recorded.losses) == 2


def test_a_run_with_the_noise_of_an_older_version_is_refused_unless_allowed(tmp_path: Path, run_points) -> None:
    run_points(tmp_path, 2)
    path = newest_whole(tmp_path / "checkpoints")
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["diffusion_train"]["identity"]["noise"]
    torch.save(checkpoint, path)
    with pytest.raises(
        ValueError, match=r"noise: version 1 in the checkpoint, version 2 now\n.*allow_mismatch=\[noise\]"
    ):
        run_points(tmp_path, 4, resume=path)
    module, _ = run_points(tmp_path, 4, resume=path, allow_mismatch=("noise",))
    assert module.trainer.global_step == 4


def test_another_batch_size_goes_on_with_the_samples_that_come_next(tmp_path: Path, run_points) -> None:
    _, whole = run_points(tmp_path / "a", 10)
    run_points(tmp_path / "b", 2)
    keys = []
    for stop, batch_size in ((5, 8), (9, 6), (13, 8)):
        newest = newest_whole(tmp_path / "b" / "checkpoints")
        _, recorded = run_points(
            tmp_path / "b", stop, resume=newest, batch_size=batch_size, allow_mismatch=("data.batch_size",)
        )
        keys += [key for step in recorded.keys for key in step]
    assert keys == [key for step in whole.keys for key in step][24 : 24 + len(keys)]
    assert len(keys) == 3 * 8 + 4 * 6 + 4 * 8


def test_other_data_begins_its_first_epoch(tmp_path: Path, run_points) -> None:
    run_points(tmp_path, 2)
    newest = newest_whole(tmp_path / "checkpoints")
    _, recorded = run_points(tmp_path, 7, resume=newest, num_samples=60, allow_mismatch=("data",))
    keys = [key for step in recorded.keys for key in step]
    assert sorted(keys) == [f"{index:09d}" for index in range(60)]


def test_what_cannot_be_allowed_to_differ_is_named(tmp_path: Path, run_points) -> None:
    with pytest.raises(ValueError, match="allow_mismatch: unknown logger"):
        run_points(tmp_path, 1, allow_mismatch=("logger",))
