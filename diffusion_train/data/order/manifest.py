"""The list of samples that a run draws from, stored beside its checkpoints to resume with other data.

The file has 8 bytes per sample, 16 with buckets, and 4 more if the order continues an earlier one. It is a zip file of
arrays with a CRC-32 of each.
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
    """Samples 0..n-1, sorted by source, with their ids (n,).

    `sizes` (n, 2) are set if the order depends on image sizes, `newest` (n,) are last epochs if it continues another
    one.
    """

    fingerprint: str
    sources: Mapping[str, int]
    sample_ids: Names
    sizes: I64 | None = None
    newest: I64 | None = None

    def indices_in(self, old: SampleManifest) -> I64:
        """Return the index of each of these samples (n,) in `old`, -1 if it is not there.

        A source continues the one with the same name; if there is none, those whose names do not exist any more.
        """
        held, indices = dict(old._ranges()), np.full(len(self.sample_ids), -1)
        gone = [its for name, its in held.items() if name not in self.sources]
        for name, its in self._ranges():
            before = np.concatenate([np.arange(0), *([held[name]] if name in held else gone)])
            indices[its] = np.append(before, -1)[
                indices_of(self.sample_ids[its], old.sample_ids[before])
            ]  # index -1 is the last element
        return indices

    def _ranges(self) -> Iterator[tuple[str, I64]]:
        ends = pairwise(accumulate(self.sources.values(), initial=0))
        return zip(self.sources, (np.arange(*end) for end in ends), strict=True)

    def write(self, path: Path) -> None:
        """Write the manifest atomically."""
        facts = json.dumps({"fingerprint": self.fingerprint, "sources": dict(self.sources)}).encode()
        arrays: dict[str, Any] = {"facts": np.frombuffer(facts, np.uint8), "names": self.sample_ids}
        optional = {"sizes": self.sizes, "newest": self.newest}
        arrays |= {name: array.astype(np.int32) for name, array in optional.items() if array is not None}
        with atomic_file(path) as file:
            np.savez(file, allow_pickle=False, **arrays)

    @classmethod
    def read(cls, path: Path) -> SampleManifest:
        """Read a manifest. Raises ValueError if it is missing or damaged."""
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
                f"{path}: cannot be read ({error}); this file lists the samples that the run has drawn; copy it "
                "from the checkpoints of the run folder that wrote it"
            ) from error
