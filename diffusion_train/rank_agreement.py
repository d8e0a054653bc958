"""Checks, before the first step, that all ranks of a run have the same settings, data, versions and checkpoint."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from omegaconf import DictConfig

from diffusion_train import __version__, config
from diffusion_train.config import ConfigError, Mistake
from diffusion_train.training.checkpoint.checkpoint_file import read_facts
from diffusion_train.utils.text import printable

# Settings of a machine, which decide no sample and no weight.
_OF_A_HOST = ("data.num_workers", "data.storage.", "conditioner.max_bytes")
# Folders of the base model, which is compared by its hash.
_OF_THE_BASE = ("pretrained", "base_record.folder", "network.model")
_PATIENCE = 60.0  # seconds for which a network file system may show old contents
_TIMEOUT = timedelta(minutes=30)  # for ranks that read a large checkpoint
_LONGEST = 200  # characters of a value in a message
_LAST_WORDS = timedelta(seconds=10)  # in which the first rank prints and ends


@dataclass(frozen=True)
class CheckpointFile:
    """What identifies a checkpoint on every host. `sha256` is that of the whole file."""

    path: Path
    step: int
    num_bytes: int
    sha256: str

    @classmethod
    def read(cls, path: Path) -> CheckpointFile:
        """Describe the file at `path`. Raises ValueError if it is not a checkpoint, OSError if it cannot be read."""
        path = path.absolute()
        return cls(path, read_facts(path)["step"], path.stat().st_size, _sha256(path))

    def difference(self, patience: float = _PATIENCE) -> str | None:
        """Return how the file that this process sees differs, or None.

        Waits up to `patience` seconds for a file that is missing or has another size.
        """
        deadline = time.monotonic() + patience
        while (num_bytes := _size(self.path)) != self.num_bytes and time.monotonic() < deadline:
            time.sleep(0.5)
        try:
            if num_bytes is None:
                return "sees no such file"
            if num_bytes != self.num_bytes:
                return f"sees a file of {num_bytes} bytes there, which must have {self.num_bytes}"
            digest = _sha256(self.path)
        except OSError as error:
            return f"cannot read it ({error.strerror})"
        return None if digest == self.sha256 else f"sees a file with SHA-256 {digest[:12]}... there"


def _size(path: Path) -> int | None:
    with suppress(OSError):
        return path.stat().st_size
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Report:
    """What a rank tells the others about itself. `facts` (name -> value) must be equal on all ranks."""

    host: str
    facts: Mapping[str, Any]
    checkpoint: CheckpointFile | None = None


def facts(cfg: DictConfig, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return what must be equal on all ranks: settings, versions, and the `identity` of the data."""
    settings = config.settings(config.redact(cfg), "")
    by_hash = settings.get("base_record.sha256") is not None
    shared = {
        key: value
        for key, value in settings.items()
        if not key.startswith(_OF_A_HOST) and not (by_hash and (key in _OF_THE_BASE or key.endswith(".source")))
    }
    return {**shared, **identity, "diffusion_train": __version__, "torch": torch.__version__}


def agree(trainer: pl.Trainer, shared: Mapping[str, Any], checkpoint: Path | None) -> Path | None:
    """Start the ranks of `trainer`, compare what they have, and return the checkpoint that the first one chose.

    `shared` are this rank's `facts`; `checkpoint` is used on the first rank only. Raises ConfigError on every rank if
    ranks differ, see another checkpoint or cannot be reached.
    """
    if trainer.num_devices * trainer.num_nodes == 1:
        return checkpoint
    mine = Report(socket.gethostname(), shared, CheckpointFile.read(checkpoint) if checkpoint else None)
    try:
        trainer.strategy.launcher.launch(trainer.strategy.setup_environment)  # type: ignore[union-attr]
        return _compare(mine)
    except BaseException as error:
        trainer.strategy.launcher.kill(signal.SIGKILL)  # type: ignore[union-attr,arg-type]
        if isinstance(error, RuntimeError):  # of torch.distributed
            raise ConfigError([_unreachable(mine.host, error)]) from error
        raise


def _compare(mine: Report) -> Path | None:
    group = dist.new_group(backend="gloo", timeout=_TIMEOUT)
    reports: list[Report] = _gather(mine, group)
    chosen = reports[0].checkpoint
    mistakes = differing(reports)
    if chosen and not mistakes:
        mistakes = unseen(reports, _gather(chosen.difference() if dist.get_rank() else None, group))
    if mistakes and dist.get_rank():
        _outlast_the_first(group)
        here, first = (_named(rank, reports) for rank in (dist.get_rank(), 0))
        mistakes = [Mistake(here, "cannot start because the ranks of this run differ", f"see the message of {first}")]
    config.raise_all(mistakes)
    return chosen.path if chosen else None


def _gather(value: object, group: Any) -> list[Any]:
    """Return the value of each rank."""
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value, group=group)
    return values


def _outlast_the_first(group: Any) -> None:
    """Wait until the first rank has ended: launchers kill it, even while it prints, once another rank has failed."""
    with suppress(RuntimeError):
        dist.barrier(group, async_op=True).wait(_LAST_WORDS)


def differing(reports: Sequence[Report]) -> list[Mistake]:
    """Return a mistake for each fact that is not equal on all ranks, with its values. Rank r made `reports[r]`."""
    names = dict.fromkeys(name for report in reports for name in report.facts)
    return [mistake for name in names for mistake in _differing(name, reports)]


def _differing(name: str, reports: Sequence[Report]) -> Iterator[Mistake]:
    ranks_with: dict[str, list[int]] = {}
    for rank, report in enumerate(reports):
        value = str(report.facts[name]) if name in report.facts else "no such setting"
        ranks_with.setdefault(value, []).append(rank)
    if len(ranks_with) > 1:
        same = sum(1 for _ in takewhile(lambda at: len(set(at)) == 1, zip(*ranks_with, strict=False)))
        start = same - 20 if same > _LONGEST // 2 else 0  # show where long values begin to differ
        values = ", ".join(
            f"{'…' * (start > 0)}{printable(value[start:], _LONGEST)} on {_listed(ranks, reports)}"
            for value, ranks in ranks_with.items()
        )
        is_version = name in ("diffusion_train", "torch")
        remedy = "install one version on all hosts" if is_version else "start all ranks with the same command and files"
        yield Mistake(name, f"must be equal on all ranks, got {values}", remedy)


def unseen(reports: Sequence[Report], differences: Sequence[str | None]) -> list[Mistake]:
    """Return a mistake for each rank that does not see the checkpoint of the first, as its `differences` say."""
    chosen = reports[0].checkpoint
    assert chosen is not None
    expected = f"{_named(0, reports)} resumes from step {chosen.step}, {chosen.path}, SHA-256 {chosen.sha256[:12]}..."
    remedy = "run_dir must be the same folder on all hosts; if it is, start again once they all see the file"
    return [
        Mistake("resume", f"{expected}, but {_named(rank, reports)} {difference}", remedy)
        for rank, difference in enumerate(differences)
        if difference
    ]


def _named(rank: int, reports: Sequence[Report]) -> str:
    return f"rank {rank} ({reports[rank].host})"


def _listed(ranks: Sequence[int], reports: Sequence[Report]) -> str:
    others = f" and {len(ranks) - 1} more" if len(ranks) > 1 else ""
    return f"{_named(ranks[0], reports)}{others}"


def _unreachable(host: str, error: RuntimeError) -> Mistake:
    rank, size = os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")), os.environ.get("WORLD_SIZE", "?")
    reason = (str(error).strip().splitlines() or [repr(error)])[0]
    problem = f"cannot reach all {size} ranks: {reason}"
    return Mistake(f"rank {rank} ({host})", problem, "the output of the others says why they ended or did not start")
