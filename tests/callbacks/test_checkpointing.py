import errno
import math
import os
import signal
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from diffusion_train.callbacks.checkpointing import NotSaved
from diffusion_train.callbacks.scheduled import Every, Scheduled
from diffusion_train.callbacks.stop import GracefulStop
from diffusion_train.callbacks.time_budget import TimeBudget
from diffusion_train.data.points import PointsDataset
from diffusion_train.data.storage.base import StorageError
from diffusion_train.run_folder import RunFolder, by_step
from diffusion_train.training import weights
from diffusion_train.training.checkpoint.checkpoint_file import load, newest_whole
from diffusion_train.training.resume import find_checkpoint
from diffusion_train.training.weights import load_weights
from diffusion_train.utils import files


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
    saved, description = load_weights(tmp_path / "weights.safetensors")
    assert saved.keys() == module.network.state_dict().keys()
    assert all(torch.equal(saved[name], value) for name, value in module.ema.average(0).items())
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


class Broken(pl.Callback):
    """Fails inside a hook of step 6, and calls none of its others."""

    def __init__(self, hook: str) -> None:
        setattr(self, hook, self.fail)

    def fail(self, trainer, *rest) -> None:
        if trainer.global_step >= 5:
            raise KeyError("a fault of somebody's code")


@pytest.mark.parametrize(
    ("hook", "step"),
    [("on_train_batch_start", 5), ("on_after_backward", 5), ("on_before_optimizer_step", 4), ("on_train_batch_end", 5)],
)
def test_after_any_error_a_run_is_saved_if_its_state_is_whole(tmp_path, run_points, hook: str, step: int) -> None:
    """Only between the optimizer's step and that of the averages it is not."""
    _, whole = run_points(tmp_path / "whole", 10)
    with pytest.raises(KeyError, match="a fault of"):
        run_points(tmp_path / "run", 10, every_n_steps=4, before_saving=(Broken(hook),))
    newest = newest_whole(tmp_path / "run" / "checkpoints")
    assert load(newest)["global_step"] == step
    _, rest = run_points(tmp_path / "run", 10, resume=newest)
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


def full_disk(monkeypatch, num_files: Callable[[Path], int], most: int) -> None:
    """Let a file be written only while its `num_files` is at most `most`."""
    write = files.publish

    def publish(temporary: Path, path: Path) -> None:
        if num_files(path) > most:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(temporary))
        write(temporary, path)

    monkeypatch.setattr(files, "publish", publish)
    monkeypatch.setattr(weights, "publish", publish)


def test_a_full_disk_is_freed_by_deleting_the_oldest_checkpoint(tmp_path: Path, run_points, monkeypatch) -> None:
    folder = tmp_path / "checkpoints"
    full_disk(monkeypatch, lambda path: len(by_step(folder)) * (path.suffix == ".ckpt"), most=1)
    with pytest.warns(UserWarning, match=r"disk is full; deleted step_00000002.ckpt and saving again"):
        run_points(tmp_path, 8, every_n_steps=2)
    assert names(folder) == ["last.ckpt", "step_00000006.ckpt", "step_00000008.ckpt"]
    assert load(folder / "last.ckpt")["global_step"] == 8


def test_a_full_disk_is_freed_for_the_weights_too(tmp_path: Path, run_points, monkeypatch) -> None:
    folder = tmp_path / "checkpoints"
    full_disk(monkeypatch, lambda path: len(by_step(folder)) * (path.suffix == ".safetensors"), most=2)
    with pytest.warns(UserWarning, match=r"disk is full; deleted step_00000002.ckpt"):
        run_points(tmp_path, 6, every_n_steps=2)
    assert names(folder) == ["last.ckpt", "step_00000004.ckpt", "step_00000006.ckpt"]
    assert load_weights(tmp_path / "weights.safetensors")[1]["step"] == 6


def test_a_disk_that_stays_full_keeps_the_newest_whole_checkpoint(tmp_path: Path, run_points, monkeypatch) -> None:
    run_points(tmp_path, 4, every_n_steps=2)
    folder = tmp_path / "checkpoints"
    (folder / "step_00000004.ckpt").write_bytes(b"cut")
    full_disk(monkeypatch, lambda path: int(path.suffix == ".ckpt"), most=0)
    with pytest.raises(NotSaved, match="No space left on device"):
        run_points(tmp_path, 6, every_n_steps=2, resume=folder / "step_00000002.ckpt")
    assert newest_whole_quietly(folder) == folder / "step_00000002.ckpt"


def newest_whole_quietly(folder: Path) -> Path | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return newest_whole(folder)


@pytest.mark.parametrize("refusal", [PermissionError(errno.EPERM, "Operation not permitted"), NotImplementedError()])
def test_where_links_cannot_be_made_the_last_one_is_left_out(tmp_path, run_points, monkeypatch, refusal) -> None:
    folder = tmp_path / "checkpoints"
    run_points(tmp_path, 2)
    monkeypatch.setattr(Path, "symlink_to", lambda *rest, **options: (_ for _ in ()).throw(refusal))
    with pytest.warns(UserWarning, match=r"last.ckpt is left out; resume=auto does not need it") as caught:
        run_points(tmp_path, 6, every_n_steps=2, resume=folder / "step_00000002.ckpt")
    assert len([warning for warning in caught if "last.ckpt" in str(warning.message)]) == 1
    assert names(folder) == ["step_00000004.ckpt", "step_00000006.ckpt"]
    assert find_checkpoint(tmp_path, "auto") == RunFolder(tmp_path).last_checkpoint == folder / "step_00000006.ckpt"


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
