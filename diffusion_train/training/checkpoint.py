"""Checkpoints: written completely or not at all, and loaded without running code.

A checkpoint is a torch zip file whose comment holds the SHA-256 of everything before it, by which damage is detected;
torch.load ignores the comment. The file is written under another name in the same folder, flushed to the disk and
renamed.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import warnings
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import torch
from pytorch_lightning.plugins.io import CheckpointIO

from diffusion_train.training.weights import FORMAT, atomic_tensor_file


class AtomicCheckpointIO(CheckpointIO):
    """Writes and reads checkpoints for Lightning."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        with atomic_tensor_file(Path(path)) as file:
            hashed = _Hashed(file)
            torch.save(checkpoint, hashed)  # type: ignore[arg-type]
            file.seek(-len(_NO_COMMENT), os.SEEK_END)
            file.write(_comment(hashed.digest.hexdigest()))

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return load(Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)


# The end of a zip file: a mark, 16 bytes, the length of the comment in 2 bytes, and the comment.
_END, _END_SIZE = b"PK\5\6", 16
_NO_COMMENT = b"\0\0"
_LABEL = b"sha256:"


def _comment(digest: str) -> bytes:
    text = _LABEL + digest.encode()
    return len(text).to_bytes(2, "little") + text


class _Hashed:
    """A file that is written from front to back, and the SHA-256 of what was written."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest = file, hashlib.sha256()

    def write(self, content: bytes) -> int:
        self.digest.update(content)
        return self.file.write(content)

    def flush(self) -> None:
        self.file.flush()


def load(path: Path) -> dict[str, Any]:
    """Load a checkpoint. Raises ValueError if the file is damaged, is not ours, or holds more than data."""
    if problem := damage(path):
        raise ValueError(f"{path}: {problem}")
    return peek(path, mmap=False)


def read_facts(path: Path) -> dict[str, Any]:
    """Return what a checkpoint says about its run, without reading tensors. Raises ValueError if it is not ours."""
    facts: dict[str, Any] = peek(path)["diffusion_train"]
    return facts


def peek(path: Path, mmap: bool = True) -> dict[str, Any]:
    """Load a checkpoint without testing its checksums; with `mmap`, tensors are read from the file when they are used.

    Raises ValueError if it is not ours, holds more than data, or has a newer format.
    """
    try:
        content: object = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path}: refused because it holds objects other than tensors and plain data ({error})"
        ) from error
    except Exception as error:
        raise ValueError(f"{path}: cannot be read ({type(error).__name__}: {error})") from error
    checkpoint: dict[str, Any] = content if isinstance(content, dict) else {}
    written = checkpoint.get("diffusion_train", {})
    if "format" not in written:
        raise ValueError(f"{path}: not a checkpoint of diffusion_train")
    if written["format"] > FORMAT:
        raise ValueError(f"{path}: format must be at most {FORMAT}, got {written['format']}; update diffusion_train")
    return checkpoint


def mismatch(rows: dict[str, tuple[Any, Any]], allowing: Iterable[str], then: str = "") -> ValueError:
    """Return the error for settings that differ from a checkpoint.

    `rows` maps a setting to its values in the checkpoint and now. `allowing` lists the names that `allow_mismatch` must
    hold to resume anyway, and `then` says what happens in that case.
    """
    table = "\n  ".join(f"{name}: {before} in the checkpoint, {now} now" for name, (before, now) in rows.items())
    return ValueError(
        f"the run cannot resume exactly from its checkpoint:\n  {table}\nrestore these, start again in another run_dir, "
        f"or resume anyway with allow_mismatch=[{','.join(allowing)}]{then}"
    )


def damage(path: Path) -> str | None:
    """Test the checksum of a checkpoint; return what is wrong with the file, or None if it is whole."""
    try:
        hash_matches = _hash_matches(path)
        if hash_matches is False:
            return "damaged: its SHA-256 differs from the one in its comment"
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            stored = all(record.compress_type == zipfile.ZIP_STORED for record in records)
            if not stored or sum(record.file_size for record in records) > path.stat().st_size:
                return "its records take more than the file, as in a zip bomb"
            record = None if hash_matches else archive.testzip()
    except Exception as error:  # noqa: BLE001  a damaged file may raise anything
        return f"damaged or incomplete ({error})"
    return f"record {record} fails its checksum" if record else None


def _hash_matches(path: Path) -> bool | None:
    """Return whether the content has the SHA-256 of the comment, which must be whole; None if there is no comment."""
    longest = len(_END) + _END_SIZE + len(_comment("0" * 64))
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - longest))
        _, end, last = file.read().rpartition(_END)
        comment = last[_END_SIZE:]
        if not end or comment == _NO_COMMENT:
            return None
        size = file.tell() - len(comment)
        digest = hashlib.sha256()
        file.seek(0)
        for start in range(0, size, 1 << 20):
            digest.update(file.read(min(1 << 20, size - start)))
    digest.update(_NO_COMMENT)
    return comment == _comment(digest.hexdigest())


def step_name(step: int) -> str:
    """Return the file name of the checkpoint of a step."""
    return f"step_{step:08d}.ckpt"


def by_step(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, newest step first."""
    return sorted(folder.glob("step_*.ckpt"), reverse=True)


def newest_whole(folder: Path) -> Path | None:
    """Return the newest undamaged checkpoint, None if there are none. Raises ValueError if all are damaged."""
    damaged = []
    for path in by_step(folder):
        if not (problem := damage(path)):
            return path
        damaged.append(f"{path}: {problem}")
        warnings.warn(f"{damaged[-1]}; using the checkpoint before it", stacklevel=2)
    if damaged:
        raise ValueError(
            "every checkpoint of this run is damaged; to start again, delete them or use another run_dir:\n  "
            + "\n  ".join(damaged)
        )
    return None
