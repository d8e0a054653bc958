"""All shards of a data set as one sequence of samples."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from braceexpand import braceexpand
from numpy.typing import NDArray

from diffusion_train.data.decode import IMAGE_EXTENSIONS, MAX_PIXELS
from diffusion_train.data.index import DataError, Problem, ShardIndex, open_index

CAPTION_EXTENSIONS = ("txt",)
Shards = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


class Collection:
    """Samples 0..n-1 over the shards in their order."""

    def __init__(self, shards: Sequence[ShardIndex]) -> None:
        self.shards = shards
        self.image_rows = [shard.rows(IMAGE_EXTENSIONS)[1] for shard in shards]
        self.caption_rows = [shard.rows(CAPTION_EXTENSIONS)[1] for shard in shards]
        self._ends = np.cumsum([len(shard) for shard in shards])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def locate(self, sample: int) -> tuple[int, int]:
        """(shard, place in it)"""
        shard = int(np.searchsorted(self._ends, sample, side="right"))
        return shard, sample - (int(self._ends[shard - 1]) if shard else 0)

    def all_keys(self) -> Iterator[str]:
        return (shard.key(place) for shard in self.shards for place in range(len(shard)))

    def sides(self) -> NDArray[np.int32]:
        """The shorter side of every image (n,), in pixels."""
        rows = [shard.members[rows] for shard, rows in zip(self.shards, self.image_rows, strict=True)]
        return np.concatenate([np.minimum(row["width"], row["height"]) for row in rows])

    @property
    def fingerprint(self) -> str:
        """A hash of what the shards hold, whatever they are called and wherever they lie."""
        return hashlib.sha256("".join(shard.digest for shard in self.shards).encode()).hexdigest()


def open_shards(shards: Shards, captions_required: bool) -> Collection:
    """Raises one DataError that lists everything wrong in any of the shards."""
    paths, problems = find_shards(shards)
    indexes = []
    for path in paths:
        try:
            indexes.append(open_index(path))
        except DataError as error:
            problems += error.problems
        else:
            problems += _incomplete(indexes[-1], captions_required)
    if problems:
        raise DataError.listing(problems)
    return Collection(indexes)


def find_shards(shards: Shards) -> tuple[list[Path], list[Problem]]:
    """Files meant by paths with braces or wildcards, in the order given."""
    patterns = [shards] if isinstance(shards, str | os.PathLike) else list(shards)
    paths: list[Path] = []
    problems = [] if patterns else [Problem("[]", "no shards given")]
    for pattern in patterns:
        found, faults = _expand(os.fspath(pattern))
        paths += found
        problems += faults
    seen: set[str] = set()
    for path in paths:
        real = os.path.realpath(path)
        if real in seen:
            problems.append(Problem(str(path), "given twice"))
        seen.add(real)
    return paths, problems


def _expand(pattern: str) -> tuple[list[Path], list[Problem]]:
    if scheme := re.match(r"[A-Za-z][A-Za-z0-9+.-]*://|pipe:", pattern):
        return [], [Problem(pattern, f"{scheme[0]} cannot be read; shards are local files")]
    if os.path.exists(pattern):
        return [Path(pattern)], []
    try:
        names = list(braceexpand(pattern, escape=False))
    except ValueError:
        return [], [Problem(pattern, "braces do not match")]
    paths, problems = [], []
    for name in names:
        wild = glob.has_magic(name) and not os.path.exists(name)
        found = sorted(glob.glob(name)) if wild else [name] * os.path.lexists(name)
        paths += [Path(path) for path in found]
        if not found:
            plain = name == pattern and not wild
            problems.append(Problem(name, "no such file" if plain else f"{pattern} matched 0 files here"))
    return paths, problems


def _incomplete(shard: ShardIndex, captions_required: bool) -> list[Problem]:
    """Samples that are no pair of one image and one caption, or whose image cannot be trained on."""
    images, rows = shard.rows(IMAGE_EXTENSIONS)
    captions, _ = shard.rows(CAPTION_EXTENSIONS)
    width, height = (shard.members[rows][axis].astype(np.int64) for axis in ("width", "height"))
    faults = {
        f"no image ({', '.join(IMAGE_EXTENSIONS)})": images == 0,
        "more than one image": images > 1,
        "the image cannot be decoded": (images == 1) & (width * height == 0),
        f"the image has more than {MAX_PIXELS} pixels": (images == 1) & (width * height > MAX_PIXELS),
        f"no caption ({', '.join(CAPTION_EXTENSIONS)}; data.captions.missing=empty trains without)": (captions == 0)
        & captions_required,
    }
    problems = []
    for reason, samples in faults.items():
        for sample in np.flatnonzero(samples):
            offset = int(shard.members["offset"][shard.starts[sample]])
            problems.append(Problem(shard.path, f"sample {shard.key(int(sample))!r}: {reason}", offset))
    return problems
