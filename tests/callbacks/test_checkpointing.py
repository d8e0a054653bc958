import os
import signal
from pathlib import Path

import pytorch_lightning as pl
import torch

from diffusion_train.callbacks.scheduled import Every, Scheduled
from diffusion_train.callbacks.stop import GracefulStop
from diffusion_train.callbacks.time_budget import TimeBudget
from diffusion_train.training.checkpoint import load, load_weights


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.ckpt"))


def test_keeps_the_newest_and_always_the_last_step(tmp_path: Path, run_points) -> None:
    run_points(tmp_path, 7, every_n_steps=2)
    folder = tmp_path / "checkpoints"
    assert names(folder) == ["last.ckpt", "step_00000006.ckpt", "step_00000007.ckpt"]
    assert os.readlink(folder / "last.ckpt") == "step_00000007.ckpt"
    assert load(folder / "last.ckpt")["diffusion_train"]["cursor"] == 7 * 12


def test_weights_are_those_of_the_first_average(tmp_path: Path, run_points) -> None:
    module, _ = run_points(tmp_path, 3)
    weights, description = load_weights(tmp_path / "weights.safetensors")
    assert weights.keys() == module.network.state_dict().keys()
    assert all(torch.equal(weights[name], value) for name, value in module.ema.average(0).items())
    assert (description["step"], description["shape"]) == (3, [2])


def test_strays_of_a_killed_run_are_removed(tmp_path: Path, run_points) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / ".tmp-abc").touch()
    run_points(tmp_path, 1)
    assert not list((tmp_path / "checkpoints").glob(".tmp-*"))


class Signal(pl.Callback):
    def __init__(self, number: int, step: int) -> None:
        self.number, self.step = number, step

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), self.number)


def test_a_signal_saves_after_the_step_at_hand_and_handlers_are_put_back(tmp_path: Path, run_points) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        before, stop = signal.getsignal(number), GracefulStop()
        run_dir = tmp_path / str(number)
        _, recorded = run_points(run_dir, 20, callbacks=(stop, Signal(number, 4)))
        assert stop.stopped
        assert len(recorded.losses) == 5
        assert names(run_dir / "checkpoints") == ["last.ckpt", "step_00000005.ckpt"]
        assert signal.getsignal(number) == before


def test_a_time_budget_ends_the_run_as_complete_and_counts_over_restarts(tmp_path: Path, run_points) -> None:
    budget = TimeBudget(minutes=1)
    budget.load_state_dict({"seconds": 59.9})
    grid = Counter(Every(0))
    run_points(tmp_path, 100_000, callbacks=(budget, grid))
    step = load(tmp_path / "checkpoints" / "last.ckpt")["global_step"]
    assert 0 < step < 100_000
    assert grid.steps == [step]
    assert load(tmp_path / "checkpoints" / "last.ckpt")["callbacks"]["TimeBudget"]["seconds"] >= 60


class Counter(Scheduled):
    def __init__(self, every: Every) -> None:
        super().__init__(every)
        self.steps: list[int] = []

    def act(self, trainer, module) -> None:
        self.steps.append(trainer.global_step)
