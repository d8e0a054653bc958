from __future__ import annotations

import pytest
import torch

from diffusion_train.utils import rng
from diffusion_train.utils.rng import Rng, _split_mix, key_seed


def test_key_seed_is_the_same_on_every_machine() -> None:
    """`printf "('noise', 0, 0, 0)" | b2sum -l 64` gives 492d9d0076ffead9."""
    assert key_seed("noise", 0, 0, 0) == 0x492D9D0076FFEAD9 >> 1
    assert 0 <= key_seed(1) < 2**63


def test_keys_do_not_collide_by_concatenation() -> None:
    keys = [("a", 12), ("a", 1, 2), ("a1", 2), ("a", "12"), ("a", "1", "2"), ("a, 12",), ("a", 2, 1)]
    assert len({key_seed(*key) for key in keys}) == len(keys)


@pytest.mark.parametrize("shape", [(), (3,), (3, 8, 8)], ids=str)
def test_a_row_does_not_depend_on_its_neighbours(shape: tuple[int, ...]) -> None:
    whole = Rng.at_step(1, 2, range(6), 6).normal("noise", shape)
    assert whole.shape == (6, *shape)
    parts = [Rng.at_step(1, 2, places, 6).normal("noise", shape) for places in ([5, 0], [3], [1, 4, 2])]
    assert torch.equal(torch.cat(parts), whole[[5, 0, 3, 1, 4, 2]])


def test_uniform_rows_do_not_depend_on_their_neighbours() -> None:
    whole = Rng.at_step(1, 2, range(6), 6).uniform("time")
    assert torch.equal(Rng.at_step(1, 2, [4, 1], 6).uniform("time"), whole[[4, 1]])


def test_a_sample_depends_on_its_own_seed_alone() -> None:
    whole = Rng.for_samples([10, 11, 12]).normal("noise", (4,))
    assert torch.equal(Rng.for_samples([12]).normal("noise", (4,)), whole[2:])


def test_draws_do_not_depend_on_earlier_draws() -> None:
    rng = Rng.at_step(0, 0, range(3), 3)
    first = rng.normal("noise", (5,))
    rng.uniform("time")
    rng.normal("other", (7,))
    torch.rand(3)
    assert torch.equal(rng.normal("noise", (5,)), first)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(lambda: Rng.at_step(0, 0, range(64), 64).normal("offset_noise", (32,)), id="purpose"),
        pytest.param(lambda: Rng.at_step(0, 1, range(64), 64).normal("noise", (32,)), id="step"),
        pytest.param(lambda: Rng.at_step(1, 0, range(64), 64).normal("noise", (32,)), id="seed"),
        pytest.param(lambda: Rng.at_step(0, 0, range(64, 128), 128).normal("noise", (32,)), id="place"),
        pytest.param(lambda: Rng.for_samples(range(64)).normal("noise", (32,)), id="sampling"),
    ],
)
def test_different_keys_give_independent_noise(other) -> None:
    noise = Rng.at_step(0, 0, range(64), 64).normal("noise", (32,))
    correlation = torch.corrcoef(torch.stack([noise.flatten(), other().flatten()]))[0, 1]
    assert correlation.abs() < 4 / 2048**0.5


def test_all_bits_of_a_seed_count() -> None:
    """The seeds of these two rows differ by a multiple of 2^32; torch's CPU generator would drop the difference."""
    rng = Rng.at_step(0, 0, [8454, 26827])
    first, second = rng._seeds("noise").tolist()
    assert first != second
    assert (first - second) % 2**32 == 0
    assert torch.corrcoef(rng.normal("noise", (4096,)))[0, 1].abs() < 4 / 4096**0.5


def test_no_row_repeats_another_row() -> None:
    """Among so many rows, two seeds agree in their lower 32 bits."""
    noise = Rng.at_step(0, 0, range(27_000)).normal("noise", (2,))
    assert len(noise.view(torch.int64).unique()) == len(noise)


def test_split_mix_gives_the_published_numbers() -> None:
    """The first numbers of splitmix64.c from seed 1234567."""
    numbers = [number % 2**64 for number in _split_mix(1234567, torch.arange(3)).tolist()]
    assert numbers == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_rows_of_a_batch_are_independent() -> None:
    noise = Rng.at_step(0, 0, range(8), 8).normal("noise", (2048,))
    assert (torch.corrcoef(noise) - torch.eye(8)).abs().max() < 5 / 2048**0.5


def test_normal_is_standard_normal() -> None:
    noise = Rng.at_step(0, 0, range(50), 50).normal("noise", (400,))
    assert noise.mean().abs() < 0.03
    assert noise.var().item() == pytest.approx(1, abs=0.04)
    assert (noise.abs() < 1).float().mean().item() == pytest.approx(0.6827, abs=0.015)


def test_draws_are_float32_whatever_the_default() -> None:
    expected = Rng.at_step(0, 0, range(4), 4).normal("noise", (20,))
    torch.set_default_dtype(torch.float64)
    try:
        rng = Rng.at_step(0, 0, range(4), 4)
        assert torch.equal(rng.normal("noise", (20,)), expected)
        assert rng.uniform("time").dtype == rng.stratified("time").dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


def test_uniform_and_stratified_stay_below_one() -> None:
    rng = Rng.at_step(0, 0, range(5000), 5000)
    for u in (rng.uniform("time"), rng.stratified("time")):
        assert u.min() >= 0
        assert u.max() < 1


def test_stratified_has_one_number_a_stratum_over_the_global_batch() -> None:
    ranks = [Rng.at_step(3, 4, range(start, start + 5), 10).stratified("time") for start in (0, 5)]
    assert torch.equal(torch.cat(ranks), Rng.at_step(3, 4, range(10), 10).stratified("time"))
    assert sorted((torch.cat(ranks) * 10).long().tolist()) == list(range(10))
    assert not torch.equal(ranks[0], Rng.at_step(3, 5, range(5), 10).stratified("time"))


def test_dropout_draws_by_all_bits_of_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = []
    monkeypatch.setattr(rng, "key_seed", lambda seed: seed)
    for seed in (5, 5, 5 + 2**32):
        rng.seed_torch(seed)
        draws.append(torch.rand(8))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
