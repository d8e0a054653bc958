"""Keyed randomness: every draw is a pure function of names and numbers, not of earlier draws.

A generator is seeded for each row of a batch with the key of that row, so a row's numbers do not depend on other rows,
on the process that holds it, or on a restart. Draws on different device types differ.
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
    """Return a 63-bit seed, the same on every machine; the types and boundaries of the parts are hashed too."""
    plain = tuple(part if isinstance(part, str) else int(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(repr(plain).encode(), digest_size=8).digest(), "big") >> 1


@dataclass(frozen=True)
class Rng:
    """Random numbers for the rows of a batch.

    `rows` holds one key per row, `batch` the key of the global batch, and `positions` the position of each row in the
    global batch of `num_rows` rows.
    """

    rows: Sequence[Key]
    batch: Key
    positions: Sequence[int]
    num_rows: int

    @classmethod
    def at_step(cls, seed: int, step: int, positions: Sequence[int], num_rows: int | None = None) -> Rng:
        """Return the randomness of training for some rows of the global batch of one optimizer step.

        `positions` are their positions in that batch of `num_rows` rows, by default all of it.
        """
        num_rows = len(positions) if num_rows is None else num_rows
        return cls([(seed, step, position) for position in positions], (seed, step), positions, num_rows)

    @classmethod
    def for_samples(cls, seeds: Sequence[int]) -> Rng:
        """Return the randomness of sampling, in which a row depends only on its seed."""
        return cls([("sample", seed) for seed in seeds], ("sample",), range(len(seeds)), len(seeds))

    def normal(self, purpose: str, shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
        """Return standard normal numbers (B, *shape) in float32."""
        out = torch.empty(len(self.rows), *shape, dtype=torch.float32, device=device)
        generator = torch.Generator(device)
        for row, key in zip(out, self.rows, strict=True):
            row.normal_(generator=generator.manual_seed(key_seed(purpose, *key)))
        return out

    def uniform(self, purpose: str, device: torch.device | str = "cpu") -> Tensor:
        """Return uniform numbers (B,) in [0, 1), in float32."""
        return to_device(torch.tensor([_unit(purpose, *key) for key in self.rows], dtype=torch.float32), device)

    def stratified(self, purpose: str, device: torch.device | str = "cpu") -> Tensor:
        """Return numbers (B,) in [0, 1): one in each of `num_rows` equal strata, all shifted by the same number.

        Kingma et al. 2021, "Variational Diffusion Models", appendix I.1.
        """
        shift = _unit(purpose, *self.batch)
        values = [(shift + position / self.num_rows) % 1.0 for position in self.positions]
        return to_device(torch.tensor(values, dtype=torch.float32).clamp_max_(_BELOW_ONE), device)


_BELOW_ONE = 1 - 2**-24  # the largest float32 below 1


def _unit(*parts: KeyPart) -> float:
    """Return a number in [0, 1) that float32 represents exactly."""
    return (key_seed(*parts) >> 39) * 2.0**-24
