from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from diffusion_train.metric.copying import (
    audit,
    chance,
    cosine_distance,
    nearest,
    ranks,
    references_needed,
    relative,
    threshold,
    without_itself,
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_cosine_distance_of_known_angles() -> None:
    rows = torch.tensor([[1.0, 0], [2.0, 2.0], [-3.0, 0]])
    expected = torch.tensor([[0, 1 - 0.5**0.5, 2.0]], dtype=torch.float64)
    torch.testing.assert_close(cosine_distance(torch.tensor([[5.0, 0]]), rows), expected)


def test_the_nearest_is_found_and_never_itself_in_its_own_set() -> None:
    rows = normal(20, 6)
    table = cosine_distance(rows, rows)
    assert nearest(table).row.tolist() == list(range(20))
    found = nearest(without_itself(table))
    for row, (distance, place) in enumerate(zip(*found, strict=True)):
        others = {other: float(table[row, other]) for other in range(20) if other != row}
        assert (float(distance), int(place)) == (min(others.values()), min(others, key=others.__getitem__))


def test_relative_nearness_is_low_for_a_copy_and_near_one_between_twins() -> None:
    found = relative(torch.tensor([[0.1, 2.0, 1.0], [3.0, 0.5, 0.5], [0.0, 0.0, 4.0]]), resolution=0.01)
    torch.testing.assert_close(found.distance, torch.tensor([0.11 / 1.01, 1.0, 1.0], dtype=torch.float64))
    assert found.row.tolist() == [0, 1, 0]


def test_ties_count_for_the_sample() -> None:
    references = torch.tensor([4.0, 1.0, 2.0, 2.0])
    assert ranks(torch.tensor([0.5, 1.0, 1.5, 2.0, 9.0]), references).tolist() == [1, 2, 2, 4, 5]


@pytest.mark.parametrize("num_measures", [1, 2, 3])
@pytest.mark.parametrize("rate", ["0.01", "0.05", "0.1", "0.3"])
def test_flags_are_those_of_rational_arithmetic(rate: str, num_measures: int) -> None:
    """One sample of each rank, for every number of references that can hold the rate; a copy is always flagged."""
    needed = references_needed(float(rate), num_measures)
    for n in (needed - 1, needed, *range(needed + 1, 301, 6), 59, 119, 179, 239, 299):
        references, distances = torch.arange(1.0, n + 1), torch.arange(0.5, n + 1)
        measures = [str(number) for number in range(num_measures)]
        found = audit(dict.fromkeys(measures, distances), dict.fromkeys(measures, references), float(rate))
        p = [min(Fraction(1), Fraction(num_measures * (1 + row), n + 1)) for row in range(n + 1)]
        exact = [value <= max(Fraction(rate), Fraction(num_measures, n + 1)) for value in p]
        assert found.flagged.tolist() == exact, n
        assert found.p.tolist() == [float(value) for value in p]
        assert [distance < found.thresholds["0"] for distance in distances.tolist()] == exact
        if n >= needed:
            assert found.flagged[0]
            assert found.false_alarm == float(rate)


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.2])
def test_false_alarms_are_no_more_than_stated(rate: float) -> None:
    """Held-out images and samples of one distribution, and two measures that are ties, or depend on each other."""
    shares = []
    for seed in range(60):
        values = normal(2, 400, seed=seed)
        values[1] = (values[1] + values[0]).round()  # ties
        measures = ("a", "b")
        distances = {name: row[:200] for name, row in zip(measures, values, strict=True)}
        references = {name: row[200:] for name, row in zip(measures, values, strict=True)}
        shares.append(audit(distances, references, rate).flagged.double().mean())
    assert torch.stack(shares).mean() <= rate
    assert torch.stack(shares).mean() > rate / 5


def test_copies_are_flagged_and_the_thresholds_say_the_same_as_the_p_values() -> None:
    references = {"a": normal(99).abs() + 1, "b": normal(99, seed=1).abs() + 1}
    distances = {"a": torch.linspace(0, 3, 40), "b": torch.linspace(3, 0.5, 40)}
    found = audit(distances, references, 0.1)
    below = [distances[name] < found.thresholds[name] for name in ("a", "b")]
    assert found.flagged.tolist() == (below[0] | below[1]).tolist()
    assert found.flagged[[0, -1]].all()
    assert 0 < int(found.flagged.sum()) < 40


def test_with_too_few_references_only_what_is_nearer_than_all_is_flagged_and_the_rate_says_so() -> None:
    references = {"a": torch.tensor([2.0, 3.0, 4.0]), "b": torch.tensor([2.0, 3.0, 4.0])}
    found = audit({"a": torch.tensor([1.0, 2.5]), "b": torch.tensor([9.0, 2.5])}, references, 0.05)
    assert found.false_alarm == pytest.approx(2 / 4)
    assert found.flagged.tolist() == [True, False]
    assert references_needed(0.05, num_measures=2) == 39
    assert 2 / (39 + 1) <= 0.05 < 2 / (38 + 1)


def test_a_threshold_beyond_the_references_is_infinite() -> None:
    assert threshold(torch.tensor([1.0, 2.0]), 3) == math.inf
    assert threshold(torch.tensor([3.0, 1.0, 2.0]), 1) == 1.0


def test_chance_is_the_tail_of_a_binomial() -> None:
    assert chance(0, 10, 0.05) == pytest.approx(1)
    assert chance(10, 10, 0.5) == pytest.approx(0.5**10)
    assert chance(1, 20, 0.05) == pytest.approx(1 - 0.95**20)


@pytest.mark.parametrize("num_samples", [40, 1030, 3000])
@pytest.mark.parametrize("rate", ["0.05", "0.5", "1"])
def test_chance_is_exact_for_any_number_of_samples(num_samples: int, rate: str) -> None:
    p = Fraction(rate)
    for num_flagged in (0, 1, 30):
        below = sum(math.comb(num_samples, k) * p**k * (1 - p) ** (num_samples - k) for k in range(num_flagged))
        assert chance(num_flagged, num_samples, float(rate)) == pytest.approx(float(1 - below), rel=1e-9)
    assert chance(num_samples, num_samples, float(rate)) == pytest.approx(float(rate) ** num_samples)
