"""Checkpoints: written completely or not at all, and loaded without running code.

The file is written under another name in the same folder, flushed to the disk and renamed.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import CheckpointIO

from diffusion_train.run_folder import by_step
from diffusion_train.training.checkpoint import checkpoint_schema, hashed_zip
from diffusion_train.training.weights import disk_errors
from diffusion_train.training.weights_header import check_format
from diffusion_train.utils.files import atomic_file

FreeSpace = Callable[[OSError], bool]  # tries to free space after an error of a disk; returns whether it did


class AtomicCheckpointIO(CheckpointIO):
    """Writes and reads checkpoints for Lightning. Its storage option is a `FreeSpace`."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: FreeSpace | None = None
    ) -> None:
        write = partial(_write, checkpoint, Path(path))
        write() if storage_options is None else write_again(write, storage_options)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return load(Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)


def write_again(write: Callable[[], None], free_space: FreeSpace) -> None:
    """Call `write`, and once more if it raises OSError and `free_space` then frees space."""
    try:
        write()
    except OSError as error:
        if not free_space(error):
            raise
        write()


def _write(checkpoint: dict[str, Any], path: Path) -> None:
    with disk_errors(path), atomic_file(path) as file:
        hashed_zip.save(checkpoint, file)


def load(path: Path) -> dict[str, Any]:
    """Load a checkpoint. Raises ValueError if the file is damaged, or `peek` refuses its content."""
    if problem := damage(path):
        raise ValueError(f"{path}: {problem}")
    return peek(path, mmap=False)


def read_facts(path: Path) -> dict[str, Any]:
    """Return what a checkpoint says about its run, without reading tensors. Raises ValueError as `peek` does."""
    facts: dict[str, Any] = peek(path)["diffusion_train"]
    return facts


def peek(path: Path, mmap: bool = True) -> dict[str, Any]:
    """Load a checkpoint without testing its checksums; with `mmap`, tensors are read from the file when they are used.

    Raises ValueError if it cannot be read, is not ours, has a newer format, or if its state is not that of a run: then
    the message lists everything that is missing or of another kind.
    """
    checkpoint = _read(path, mmap)
    written = checkpoint.get("diffusion_train") if isinstance(checkpoint, dict) else None
    if not isinstance(written, dict) or "format" not in written:
        raise ValueError(f"{path}: not a checkpoint of diffusion_train")
    check_format(path, written["format"])
    if wrong := checkpoint_schema.problems(checkpoint):
        raise ValueError(checkpoint_schema.listing(path, wrong))
    return dict(checkpoint)


def _read(path: Path, mmap: bool) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path}: refused because it holds objects other than tensors and plain data ({error})"
        ) from error
    except Exception as error:
        raise ValueError(f"{path}: cannot be read ({type(error).__name__}: {error})") from error


def damage(path: Path) -> str | None:
    """Test the checksum of a checkpoint and read it; return what is wrong with the file, or None if it is whole."""
    try:
        if problem := hashed_zip.problem(path):
            return problem
    except Exception as error:  # noqa: BLE001  a damaged file may raise anything
        return f"damaged or incomplete ({error})"
    try:
        _read(path, mmap=True)
    except ValueError as error:
        return str(error).removeprefix(f"{path}: ")
    return None


def newest_whole(folder: Path) -> Path | None:
    """Return the newest undamaged checkpoint, None if there are none. Raises ValueError if all are damaged."""
    damaged = []
    for path in by_step(folder):
        if not (problem := damage(path)):
            return path
        damaged.append(f"{path}: {problem}")
        warnings.warn(f"{damaged[-1]}; using the checkpoint before it", stacklevel=1)
    if damaged:
        raise ValueError(
            "every checkpoint of this run is damaged; to start again, delete them or use another run_dir:\n  "
            + "\n  ".join(damaged)
        )
    return None
