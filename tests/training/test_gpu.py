"""What holds on a GPU alone, or differs there; skipped where there is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from diffusion_train.bench.clock import CudaTimer, PhaseClock
from diffusion_train.network.layout import set_memory_format
from diffusion_train.network.unet import UNet
from diffusion_train.training import ema
from diffusion_train.training.checkpoint.checkpoint_file import load, newest_whole
from diffusion_train.utils.rng import Rng
from diffusion_train.utils.tensor import AsyncCopy, to_device

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
Run = Callable[..., tuple[Any, Any]]


class NoWaiting(pl.Callback):
    """From the third step on, what makes the CPU wait for the GPU is an error, but for a logged step's reading."""

    def setup(self, trainer: Any, module: Any, stage: str) -> None:
        step = module.training_step

        def watched(batch: Any, batch_idx: int) -> Any:
            torch.cuda.set_sync_debug_mode("error" if trainer.global_step >= 2 else "default")
            try:
                return step(batch, batch_idx)
            finally:
                torch.cuda.set_sync_debug_mode("default")

        module.training_step = watched


def unet() -> UNet:
    torch.manual_seed(0)
    return UNet(in_channels=3, channels=(32, 64), num_blocks=(1, 1), attention=(False, True))


def test_the_watch_sees_a_wait() -> None:
    torch.cuda.set_sync_debug_mode("error")
    try:
        with pytest.raises(RuntimeError, match="synchroniz"):
            torch.zeros(1, device="cuda").item()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_step_waits_for_nothing(tmp_path: Path, run_points: Run, precision: str) -> None:
    run_points(tmp_path, 8, accelerator="gpu", precision=precision, callbacks=(NoWaiting(),), micro_batch_size=5)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_a_resumed_run_equals_an_unbroken_one(tmp_path: Path, run_points: Run, precision: str) -> None:
    on_gpu = {"accelerator": "gpu", "precision": precision}
    run_points(tmp_path / "a", 20, **on_gpu)
    run_points(tmp_path / "b", 7, **on_gpu)
    run_points(tmp_path / "b", 20, resume=newest_whole(tmp_path / "b" / "checkpoints"), **on_gpu)
    a, b = (load(newest_whole(tmp_path / name / "checkpoints"))["state_dict"] for name in "ab")
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_run_goes_on_from_a_cpu_to_a_gpu_with_the_same_samples(tmp_path: Path, run_points: Run) -> None:
    _, whole = run_points(tmp_path / "a", 12)
    run_points(tmp_path / "b", 7)
    newest = newest_whole(tmp_path / "b" / "checkpoints")
    _, second = run_points(tmp_path / "b", 12, resume=newest, accelerator="gpu", allow_mismatch=("trainer.precision",))
    assert second.keys == whole.keys[7:]


def test_one_process_of_ddp_trains(tmp_path: Path, run_points: Run) -> None:
    module, _ = run_points(tmp_path, 3, accelerator="gpu", strategy="ddp")
    assert module.global_step == 3


def test_a_gradient_that_is_no_number_changes_nothing(tmp_path: Path, run_points: Run) -> None:
    class Spoil(pl.Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
            if trainer.global_step == 3:
                self.before = [p.detach().clone() for p in module.network.parameters()]
                batch["x"].fill_(1e30)

        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if trainer.global_step == 4:
                assert not outputs["grad_norm"].isfinite()
                for before, after in zip(self.before, module.network.parameters(), strict=True):
                    assert torch.equal(before, after)

    run_points(tmp_path, 6, accelerator="gpu", callbacks=(Spoil(),))


def test_rows_draw_the_same_noise_in_any_batch() -> None:
    whole = Rng.at_step(0, 5, range(8), 8).normal("noise", (3, 4), "cuda")
    part = Rng.at_step(0, 5, range(4, 8), 8).normal("noise", (3, 4), "cuda")
    assert torch.equal(whole[4:], part)


def test_averages_move_as_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ema, "_PIECE", 5000)  # several pieces, and tensors larger than one
    averages = {}
    for device in ("cpu", "cuda"):
        network, average = unet().to(device), ema.constant([0.3])
        average.attach(network)
        for step in range(1, 4):
            with torch.no_grad():
                for p in network.parameters():
                    p.add_(step)
            average.update(step, torch.ones((), dtype=torch.bool, device=device))
        averages[device] = average.average()
    for name, value in averages["cpu"].items():
        torch.testing.assert_close(averages["cuda"][name].cpu(), value)


@pytest.mark.parametrize(
    "layout", [{"channels_last": True, "compile": False}, {"channels_last": True, "compile": True}]
)
def test_layouts_answer_alike(layout: dict[str, bool]) -> None:
    x, t = torch.randn(2, 3, 16, 16, device="cuda"), torch.rand(2, device="cuda")
    plain, placed = unet().cuda(), unet().cuda()
    set_memory_format(placed, **layout)
    with torch.no_grad():
        for p in plain.parameters():
            p.normal_(std=0.05)
    placed.load_state_dict(plain.state_dict())
    with torch.backends.cudnn.flags(allow_tf32=False):
        outputs = [network(x, t) for network in (plain, placed)]
        for output in outputs:
            output.square().mean().backward()
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-4, atol=1e-4)
    for (name, a), b in zip(plain.named_parameters(), placed.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-4, msg=name)


def test_tensors_travel_both_ways() -> None:
    values = torch.arange(5.0)
    there = to_device(values, "cuda", torch.bfloat16)
    assert there.is_cuda
    assert there.dtype == torch.bfloat16
    assert AsyncCopy(there).tolist() == values.tolist()


def test_phases_are_timed_without_a_wait_and_add_up() -> None:
    clock, a = PhaseClock(timer := CudaTimer()), torch.randn(4096, 4096, device="cuda")
    a @ a
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        start = timer.mark()
        clock.start()
        for phase, count in (("forward", 10), ("backward", 40)):
            with clock.phase(phase):
                for _ in range(count):
                    a @ a
        end = timer.mark()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    seconds = clock.stop()
    assert sum(seconds.values()) == pytest.approx(timer.seconds(start, end), rel=0.05)
    assert seconds["backward"] == pytest.approx(4 * seconds["forward"], rel=0.3)
