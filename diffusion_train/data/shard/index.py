"""The index of a shard: where the members of each sample are, their checksums and image sizes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag

import numpy as np
from numpy.typing import NDArray

from diffusion_train.data.shard.problem import Problem

# `crc` is compared whenever a member is read; `digest` is a longer hash, which identifies the contents elsewhere.
# `traits` are the Traits of an image.
MEMBER = np.dtype(
    [
        ("ext", "<i4"),
        ("offset", "<i8"),
        ("size", "<i8"),
        ("crc", "<u4"),
        ("width", "<i4"),
        ("height", "<i4"),
        ("digest", "V16"),
        ("traits", "u1"),
    ]
)


class Traits(IntFlag):
    """What an image needs besides decoding: its colours converted, its profile ignored, or a turn that EXIF lacks."""

    CONVERTED = 1
    PROFILE_IGNORED = 2
    TURNED = 4


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """Samples 0..n-1 of one shard; the members of sample i are `members[starts[i]:starts[i + 1]]`.

    `license` (n,) is an index into `licenses`, -1 if a sample names none. `problems` are the faults that were left out.
    """

    url: str
    size: int
    version: str
    digest: str
    num_ignored: int
    extensions: list[str]
    licenses: list[str]
    problems: list[Problem]
    keys: NDArray[np.uint8]
    key_ends: NDArray[np.int64]
    starts: NDArray[np.int64]
    members: NDArray[np.void]
    license: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.key_ends)

    def key(self, sample: int) -> str:
        start = self.key_ends[sample - 1] if sample else 0
        return self.keys[start : self.key_ends[sample]].tobytes().decode()

    def sample(self, sample: int) -> dict[str, tuple[int, int]]:
        """Return {extension: (offset, size)} of a sample's members, in bytes."""
        rows = self.members[self.starts[sample] : self.starts[sample + 1]]
        return {self.extensions[row["ext"]]: (int(row["offset"]), int(row["size"])) for row in rows}
