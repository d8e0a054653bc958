"""A keyed permutation of 0..n-1, each element of which is computed in O(1).

A balanced Feistel network over the next power of four is applied until the result is below n: Black and Rogaway 2002,
"Ciphers with Arbitrary Finite Domains", section 3 (cycle-walking) and 5 (Feistel). Functions take arrays; sizes and
keys may differ by element. Rounds mix with splitmix64's finaliser: Steele et al. 2014, "Fast Splittable Pseudorandom
Number Generators".
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]
_ROUNDS = 6


def permute(index: U64, size: U64, key: U64, inverse: bool = False) -> U64:
    """Return the permuted index (m,) of each index (m,) < size (m,): a bijection of 0..size-1 for each key (m,)."""
    assert (index < size).all()  # otherwise the loop below would not end
    half = _half_bits(size)
    rounds = np.arange(_ROUNDS, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    if inverse:
        rounds = rounds[::-1]
    out = _feistel(index, half, key, rounds, inverse)
    outside: NDArray[np.int64] = np.flatnonzero(out >= size)
    while len(outside):
        out[outside] = _feistel(out[outside], half[outside], key[outside], rounds, inverse)
        outside = outside[out[outside] >= size[outside]]
    return out


def mix(value: U64) -> U64:
    """Return hashed 64-bit numbers; the hash is a bijection."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def _feistel(index: U64, half: U64, key: U64, rounds: U64, inverse: bool) -> U64:
    mask: U64 = (np.uint64(1) << half) - np.uint64(1)
    left, right = index >> half, index & mask
    for constant in rounds:
        if inverse:
            left, right = right ^ (mix(left + (key ^ constant)) & mask), left
        else:
            left, right = right, left ^ (mix(right + (key ^ constant)) & mask)
    return (left << half) | right


def _half_bits(size: U64) -> U64:
    """Return half the bits of the smallest power of four that is at least `size`; at least 1."""
    bits: NDArray[np.int32] = np.frexp((size - np.uint64(1)).astype(np.float64))[1]
    return np.maximum((bits + 1) // 2, 1).astype(np.uint64)
