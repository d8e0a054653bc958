"""Keyed randomness: every draw is a pure function of names and numbers, never of what was drawn before.

A generator is seeded for each row of a batch from the key of that row, so a row's numbers do not depend on the rows
beside it, on the process that holds it, or on a restart. Draws are equal on one device type only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_train.utils.tensor import to_device

KeyPart = int | str
Key = tuple[KeyPart, ...]


def key_seed(*parts: KeyPart) -> int:
    """A 63-bit seed, the same on every machine; parts of different type or number never collide by concatenation."""
    plain = tuple(part if isinstance(part, str) else int(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(repr(plain).encode(), digest_size=8).digest(), "big") >> 1


@dataclass(frozen=True)
class Rng:
    """Random numbers for the rows of a batch.

    `rows` holds one key a row, `batch` the key of the whole global batch, `positions` the row of each in the global
    batch of `num_rows` rows.
    """

    rows: Sequence[Key]
    batch: Key
    positions: Sequence[int]
    num_rows: int

    @classmethod
    def at_step(cls, seed: int, step: int, positions: Sequence[int], num_rows: int | None = None) -> Rng:
        """Training's randomness for some rows of the global batch of one optimizer step.

        `positions` are their positions in that batch of `num_rows` rows, by default all of it.
        """
        num_rows = len(positions) if num_rows is None else num_rows
        return cls([(seed, step, position) for position in positions], (seed, step), positions, num_rows)

    @classmethod
    def for_samples(cls, seeds: Sequence[int]) -> Rng:
        """Sampling's randomness: a row depends on its own seed alone."""
        return cls([("sample", seed) for seed in seeds], ("sample",), range(len(seeds)), len(seeds))

    def normal(self, purpose: str, shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
        """Standard normal numbers (B, *shape) in float32; `shape` is one row's."""
        out = torch.empty(len(self.rows), *shape, dtype=torch.float32, device=device)
        generator = torch.Generator(device)
        for row, key in zip(out, self.rows, strict=True):
            row.normal_(generator=generator.manual_seed(key_seed(purpose, *key)))
        return out

    def uniform(self, purpose: str, device: torch.device | str = "cpu") -> Tensor:
        """(B,) in [0, 1), float32."""
        return to_device(torch.tensor([_unit(purpose, *key) for key in self.rows], dtype=torch.float32), device)

    def stratified(self, purpose: str, device: torch.device | str = "cpu") -> Tensor:
        """(B,) in [0, 1): one number in each of `num_places` equal strata of the global batch, all with one shared shift.

        Kingma et al. 2021, "Variational Diffusion Models", appendix I.1.
        """
        shift = _unit(purpose, *self.batch)
        values = [(shift + position / self.num_rows) % 1.0 for position in self.positions]
        return to_device(torch.tensor(values, dtype=torch.float32).clamp_max_(_BELOW_ONE), device)


_BELOW_ONE = 1 - 2**-24  # the largest float32 below 1


def _unit(*parts: KeyPart) -> float:
    """A number in [0, 1) that float32 holds exactly."""
    return (key_seed(*parts) >> 39) * 2.0**-24
