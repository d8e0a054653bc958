"""Checkpoints that are whole or not there, and that run no code when loaded.

A checkpoint is a torch zip file, which holds a CRC-32 of every record: it proves by itself that it is whole. It is
written beside its final name, flushed to the disk and then renamed.
"""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import CheckpointIO

from diffusion_train.training.weights import FORMAT, atomic_tensor_file


class AtomicCheckpointIO(CheckpointIO):
    """Lightning's door to the disk."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        with atomic_tensor_file(Path(path)) as file:
            torch.save(checkpoint, file)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return load(Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)


def load(path: Path) -> dict[str, Any]:
    """Raises ValueError if the file is not a whole checkpoint of ours, or holds more than data."""
    if problem := damage(path):
        raise ValueError(f"{path}: {problem}")
    return peek(path, mmap=False)


def read_facts(path: Path) -> dict[str, Any]:
    """What a whole checkpoint says about its run, without reading its tensors. ValueError if it is none of ours."""
    facts: dict[str, Any] = peek(path)["diffusion_train"]
    return facts


def peek(path: Path, mmap: bool = True) -> dict[str, Any]:
    """A whole checkpoint, whose tensors are read when they are used, unless without `mmap`. ValueError if it is none of ours."""
    try:
        content: object = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path}: refused, it holds objects other than tensors and plain data ({error})") from error
    checkpoint: dict[str, Any] = content if isinstance(content, dict) else {}
    written = checkpoint.get("diffusion_train", {})
    if "format" not in written:
        raise ValueError(f"{path}: not a checkpoint of diffusion_train")
    if written["format"] > FORMAT:
        raise ValueError(f"{path}: format {written['format']} is newer than this version reads ({FORMAT}); update")
    return checkpoint


def mismatch(rows: dict[str, tuple[Any, Any]], allowing: Iterable[str], then: str = "") -> ValueError:
    """What differs from a checkpoint: setting -> its value there and now; `allow_mismatch` would let it pass by these names."""
    table = "\n  ".join(f"{name}: {before} in the checkpoint, {now} now" for name, (before, now) in rows.items())
    return ValueError(
        f"the run cannot resume exactly from its checkpoint:\n  {table}\nrestore these, start again in another run_dir, "
        f"or resume anyway with allow_mismatch=[{','.join(allowing)}]{then}"
    )


def damage(path: Path) -> str | None:
    """What is wrong with a file that should be a checkpoint, found by its checksums; None if it is whole."""
    try:
        with zipfile.ZipFile(path) as archive:
            record = archive.testzip()
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        return f"not a whole checkpoint ({error})"
    return f"record {record} fails its checksum" if record else None


def step_name(step: int) -> str:
    return f"step_{step:08d}.ckpt"


def by_step(folder: Path) -> list[Path]:
    """The checkpoints of a folder, newest step first."""
    return sorted(folder.glob("step_*.ckpt"), reverse=True)


def newest_whole(folder: Path) -> Path | None:
    """The newest checkpoint that is whole. Raises ValueError if there are checkpoints and none is whole."""
    damaged = []
    for path in by_step(folder):
        if not (problem := damage(path)):
            return path
        damaged.append(f"{path}: {problem}")
        warnings.warn(f"{damaged[-1]}; falling back to the one before", stacklevel=2)
    if damaged:
        raise ValueError(
            "every checkpoint of this run is damaged; delete them, or give another run_dir, to start again:\n  "
            + "\n  ".join(damaged)
        )
    return None
