"""Write samples as WebDataset tar shards: equal samples give equal bytes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import webdataset

from diffusion_train.utils.files import atomic_file, atomic_folder

Sample = dict[str, Any]


def write_shards(samples: Iterable[Sample], folder: Path, name: str, samples_per_shard: int) -> list[Path]:
    """Write `folder/name-000000.tar`, ... and return their paths; `folder` appears complete or not at all.

    A sample is `{"__key__": str, "png": bytes, "txt": str, "json": dict}` (any extensions). If another process
    completes the same folder first, its files are kept. Raises FileExistsError if the folder is not empty, and
    ValueError for a key that readers would cut at a dot, for a key used twice, and if there are no samples.
    """
    folder = Path(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty; shards must be written into an empty folder")
    names: list[str] = []
    rest = _checked(samples)
    with atomic_folder(folder) as temporary:
        while shard := list(itertools.islice(rest, samples_per_shard)):
            names.append(shard_name(name, len(names)))
            write_shard(shard, temporary / names[-1])
        if not names:
            raise ValueError(f"no samples to write as {name}-*.tar")
    paths = [folder / shard for shard in names]
    if not all(path.is_file() for path in paths):
        raise FileExistsError(f"{folder} contains other files, which another process has just written")
    return paths


def write_shard(samples: Iterable[Sample], path: Path) -> None:
    """Write one shard atomically."""
    fixed = {"user": "user", "group": "group", "mode": 0o444, "mtime": 0}
    # pax, because plain ustar does not allow names longer than 100 bytes
    with (
        atomic_file(path) as file,
        webdataset.TarWriter(file, compress=False, format="PAX_FORMAT", **fixed) as writer,
    ):
        for sample in samples:
            writer.write(sample)


def shard_name(name: str, number: int) -> str:
    return f"{name}-{number:06d}.tar"


def _checked(samples: Iterable[Sample]) -> Iterator[Sample]:
    seen: set[str] = set()
    for sample in samples:
        key = sample["__key__"]
        if not key or key.endswith("/") or "." in key.rsplit("/", 1)[-1] or "\0" in key:
            raise ValueError(f"key {key!r}: the last part of a key must not be empty or contain dots")
        if key in seen:
            raise ValueError(f"key {key!r} occurs twice")
        seen.add(key)
        yield sample
