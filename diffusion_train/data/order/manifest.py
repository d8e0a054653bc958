"""Which samples a run draws from, written down beside its checkpoints: what resuming with other data needs to know.

A file of 8 bytes a sample, 16 with buckets, and 4 more where the order continues an earlier one; a zip of arrays,
which holds a CRC-32 of each.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_train.data.order.continuation import Names, indices_of
from diffusion_train.data.order.order import I64
from diffusion_train.utils.files import atomic_file


@dataclass(frozen=True, eq=False)
class SampleManifest:
    """Samples 0..n-1, those of one source after the other: their names, sizes (n, 2) where they decide the order, and
    the last epoch of each when the order began, where it continues an earlier one."""

    fingerprint: str
    sources: Mapping[str, int]
    sample_ids: Names
    sizes: I64 | None = None
    newest: I64 | None = None

    def indices_in(self, old: SampleManifest) -> I64:
        """Where these samples were in `old`, -1 where they were not.

        A source continues as the one of its name, or else as those whose names are gone.
        """
        held, indices = dict(old._ranges()), np.full(len(self.sample_ids), -1)
        gone = [its for name, its in held.items() if name not in self.sources]
        for name, its in self._ranges():
            before = np.concatenate([np.arange(0), *([held[name]] if name in held else gone)])
            indices[its] = np.append(before, -1)[
                indices_of(self.sample_ids[its], old.sample_ids[before])
            ]  # -1 is the last
        return indices

    def _ranges(self) -> Iterator[tuple[str, I64]]:
        ends = pairwise(accumulate(self.sources.values(), initial=0))
        return zip(self.sources, (np.arange(*end) for end in ends), strict=True)

    def write(self, path: Path) -> None:
        facts = json.dumps({"fingerprint": self.fingerprint, "sources": dict(self.sources)}).encode()
        arrays: dict[str, Any] = {"facts": np.frombuffer(facts, np.uint8), "names": self.sample_ids}
        optional = {"sizes": self.sizes, "newest": self.newest}
        arrays |= {name: array.astype(np.int32) for name, array in optional.items() if array is not None}
        with atomic_file(path) as file:
            np.savez(file, allow_pickle=False, **arrays)

    @classmethod
    def read(cls, path: Path) -> SampleManifest:
        """Raises ValueError where it is not whole."""
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            facts = json.loads(arrays.pop("facts").tobytes())
            sample_ids = arrays.pop("names")
            return cls(
                **facts, sample_ids=sample_ids, **{name: array.astype(np.int64) for name, array in arrays.items()}
            )
        except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"{path}: cannot be read ({error}); it says which samples the run has drawn, and lies beside the "
                "checkpoints of the run folder where they were written: copy it from there"
            ) from error
