"""Keyed randomness: every draw is a pure function of names and numbers, not of earlier draws.

Each row of a batch has a seed that depends only on its key, so a row's numbers do not depend on other rows, on the
process that holds it, or on a restart. Normal numbers on different device types differ.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_train.utils.tensor import to_device

KeyPart = int | str

VERSION = 2  # of the noise; increased if the same keys give other numbers


def key_seed(*parts: KeyPart) -> int:
    """Return a 63-bit seed, the same on every machine; the types and boundaries of the parts are hashed too."""
    plain = tuple(part if isinstance(part, str) else int(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(repr(plain).encode(), digest_size=8).digest(), "big") >> 1


def seed_torch(*parts: KeyPart) -> None:
    """Seed torch's default generators, from which dropout draws, with all bits of a key."""
    seed = key_seed(*parts)
    torch.manual_seed(seed)
    [generator] = _generators(torch.tensor([seed]), torch.device("cpu"))
    torch.set_rng_state(generator.get_state())


@dataclass(frozen=True)
class Rng:
    """Random numbers for the rows of a batch.

    `rows` are the numbers of the rows among all rows of `key`: their positions in the global batch of `num_rows` rows,
    if they are of one.
    """

    key: tuple[KeyPart, ...]
    rows: Sequence[int]
    num_rows: int

    @classmethod
    def at_step(cls, seed: int, step: int, positions: Sequence[int], num_rows: int | None = None) -> Rng:
        """Return the randomness of training for some rows of the global batch of one optimizer step.

        `positions` are their positions in that batch of `num_rows` rows, by default all of it.
        """
        return cls((seed, step), positions, len(positions) if num_rows is None else num_rows)

    @classmethod
    def for_samples(cls, seeds: Sequence[int]) -> Rng:
        """Return the randomness of sampling, in which a row depends only on its seed."""
        return cls(("sample",), [key_seed(seed) for seed in seeds], len(seeds))

    def normal(self, purpose: str, shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
        """Return standard normal numbers (B, *shape) in float32."""
        out = torch.empty(len(self.rows), *shape, dtype=torch.float32, device=device)
        for row, generator in zip(out, _generators(self._seeds(purpose), out.device), strict=True):
            row.normal_(generator=generator)
        return out

    def uniform(self, purpose: str, device: torch.device | str = "cpu") -> Tensor:
        """Return uniform numbers (B,) in [0, 1), in float32."""
        return to_device(_unit(self._seeds(purpose)), device)

    def stratified(self, purpose: str, device: torch.device | str = "cpu") -> Tensor:
        """Return numbers (B,) in [0, 1): one in each of `num_rows` equal strata, all shifted by the same number.

        Kingma et al. 2021, "Variational Diffusion Models", appendix I.1.
        """
        shift = _unit(torch.tensor(key_seed(purpose, *self.key))).item()
        values = [(shift + position / self.num_rows) % 1.0 for position in self.rows]
        return to_device(torch.tensor(values, dtype=torch.float32).clamp_max_(_BELOW_ONE), device)

    def _seeds(self, purpose: str) -> Tensor:
        """Return a seed of 63 bits for each row, (B,) in int64."""
        return _shift_right(_split_mix(key_seed(purpose, *self.key), torch.tensor(self.rows, dtype=torch.int64)), 1)


_BELOW_ONE = 1 - 2**-24  # the largest float32 below 1


def _unit(seeds: Tensor) -> Tensor:
    """Return numbers in [0, 1), each a multiple of 2^-24, which float32 represents exactly."""
    return (seeds >> 39).float() * 2.0**-24


def _generators(seeds: Tensor, device: torch.device) -> Iterator[torch.Generator]:
    """Yield one generator again and again, seeded with all bits of each seed."""
    generator = torch.Generator(device)
    if device.type != "cpu":
        yield from map(generator.manual_seed, seeds.tolist())
        return
    # The CPU's generator, mt19937, takes only 32 bits from `manual_seed`, so the 624 words of its state are set
    # instead. torch keeps each in the lower half of an int64, after 24 bytes that say that no number was drawn yet.
    state = generator.manual_seed(0).get_state()
    words = state[24 : 24 + 624 * 8].view(torch.int64)
    for row in _split_mix(seeds[:, None], torch.arange(312)).view(torch.int32):
        words.copy_(row)
        yield generator.set_state(state)


def _split_mix(seed: Tensor | int, position: Tensor) -> Tensor:
    """Return the random int64 at positions from 0 in the stream of SplitMix64 that begins with a seed.

    Steele et al. 2014, "Fast Splittable Pseudorandom Number Generators", with the constants of Vigna's splitmix64.c.
    Overflow wraps.
    """
    z = (position + 1).mul_(0x9E3779B97F4A7C15 - 2**64) + seed
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z.bitwise_xor_(_shift_right(z, shift)).mul_(factor - 2**64)
    return z.bitwise_xor_(_shift_right(z, 31))


def _shift_right(z: Tensor, bits: int) -> Tensor:
    """Return z >> bits with zeros from the left, whatever the sign of z."""
    return (z >> bits).bitwise_and_(2 ** (64 - bits) - 1)
