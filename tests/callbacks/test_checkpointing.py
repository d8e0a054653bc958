import math
import os
import signal
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from diffusion_train.callbacks.scheduled import Every, Scheduled
from diffusion_train.callbacks.stop import GracefulStop
from diffusion_train.callbacks.time_budget import TimeBudget
from diffusion_train.data.points import PointsDataset
from diffusion_train.data.storage.base import StorageError
from diffusion_train.training.checkpoint import by_step, load
from diffusion_train.training.weights import load_weights


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


class Failing(PointsDataset):
    """Its storage fails from the given read on."""

    def __init__(self, first: float) -> None:
        super().__init__("two_moons", 40, num_holdout=5)
        self.left = first

    def read(self, draws):
        self.left -= 1
        if self.left < 0:
            raise StorageError("gone")
        return super().read(draws)


def test_a_run_whose_storage_fails_saves_the_last_completed_step_and_goes_on_from_it(tmp_path, run_points) -> None:
    _, whole = run_points(tmp_path / "whole", 10, dataset=Failing(math.inf))
    failing = Failing(8)
    with pytest.raises(StorageError):
        run_points(tmp_path / "run", 10, every_n_steps=4, dataset=failing)
    [newest, *_] = by_step(tmp_path / "run" / "checkpoints")
    step = load(newest)["diffusion_train"]["step"]
    assert step == 7
    _, rest = run_points(tmp_path / "run", 10, resume=newest, dataset=Failing(math.inf))
    assert rest.keys == whole.keys[step:]
    assert all(map(torch.equal, rest.losses, whole.losses[step:]))


def test_a_run_that_fails_before_its_first_step_saves_nothing(tmp_path, run_points) -> None:
    with pytest.raises(StorageError):
        run_points(tmp_path, 10, dataset=Failing(0))
    assert names(tmp_path / "checkpoints") == []


def _rosters(run_dir: Path) -> set[str]:
    return {path.name for path in (run_dir / "checkpoints").glob("roster-*.npz")}


def _needed(run_dir: Path) -> set[str]:
    facts = (load(path)["diffusion_train"] for path in by_step(run_dir / "checkpoints"))
    return {f"roster-{one['course']['id']}.npz" for one in facts}


def test_a_roster_goes_with_the_last_checkpoint_that_needs_it(tmp_path: Path, run_points) -> None:
    def seek(max_steps: int) -> set[str]:
        last = tmp_path / "checkpoints" / "last.ckpt"
        run_points(tmp_path, max_steps, every_n_steps=2, resume=last, num_samples=50, allow_mismatch=("data",))
        return _rosters(tmp_path)

    run_points(tmp_path, 4, every_n_steps=2)
    [old] = _rosters(tmp_path)
    (tmp_path / "checkpoints" / "roster-of-before.npz").touch()  # as of a run that was killed between the two
    assert seek(6) == _needed(tmp_path)
    assert old in _needed(tmp_path)
    assert seek(8) == _needed(tmp_path)
    assert len(_needed(tmp_path)) == 1


def test_no_roster_goes_while_a_checkpoint_cannot_be_read(tmp_path: Path, run_points) -> None:
    run_points(tmp_path, 4, every_n_steps=2)
    (tmp_path / "checkpoints" / "roster-of-before.npz").touch()
    (tmp_path / "checkpoints" / "mine.ckpt").write_bytes(b"PK")
    run_points(tmp_path, 6, every_n_steps=2, resume=tmp_path / "checkpoints" / "last.ckpt")
    assert "roster-of-before.npz" in _rosters(tmp_path)


class Signal(pl.Callback):
    def __init__(self, number: int, step: int) -> None:
        self.number, self.step = number, step

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), self.number)


def test_a_signal_saves_after_the_step_at_hand_and_handlers_are_put_back(tmp_path: Path, run_points) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        before = signal.getsignal(number)
        run_dir = tmp_path / str(number)
        module, recorded = run_points(run_dir, 20, callbacks=(GracefulStop(), Signal(number, 4)))
        assert module.trainer.should_stop
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
    _, again = run_points(tmp_path, 100_000, callbacks=(TimeBudget(1),), resume=tmp_path / "checkpoints" / "last.ckpt")
    assert again.losses == []
    slow = TimeBudget(minutes=1)
    slow.load_state_dict({"seconds": 59.9})
    run_points(tmp_path / "slow", 100_000, every_n_steps=1, callbacks=(slow,))
    assert load(tmp_path / "slow" / "checkpoints" / "last.ckpt")["callbacks"]["TimeBudget"]["seconds"] >= 60
    seconds = load(tmp_path / "checkpoints" / "last.ckpt")["callbacks"]["TimeBudget"]["seconds"]
    longer = TimeBudget(minutes=(seconds + 1) / 60)
    _, again = run_points(tmp_path, 100_000, callbacks=(longer,), resume=tmp_path / "checkpoints" / "last.ckpt")
    assert len(again.losses) > 0


class Counter(Scheduled):
    def __init__(self, every: Every) -> None:
        super().__init__(every)
        self.steps: list[int] = []

    def act(self, trainer, module) -> None:
        self.steps.append(trainer.global_step)
