from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from diffusion_train.metric.colour import ciede2000, srgb_to_lab
from diffusion_train.metric.palette import distance, palette, transport

RED, BLUE, WHITE = (1.0, -1.0, -1.0), (-1.0, -1.0, 1.0), (1.0, 1.0, 1.0)


def flat(*shares: tuple[tuple[float, float, float], int], side: int = 10) -> Tensor:
    """One image (1, 3, side, side) with so many rows of each colour."""
    rows = [torch.tensor(colour).expand(count, side, 3) for colour, count in shares]
    return torch.cat(rows).permute(2, 0, 1)[None]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def shares(num: int, seed: int) -> Tensor:
    values = random(num, seed=seed)
    return values / values.sum()


def test_a_flat_drawing_has_its_colours_with_their_shares() -> None:
    found = palette(flat((RED, 7), (BLUE, 3)))
    torch.testing.assert_close(found.fractions, torch.tensor([0.7, 0.3], dtype=torch.float64))
    expected = srgb_to_lab(torch.tensor([[1.0, 0, 0], [0, 0, 1.0]]))
    torch.testing.assert_close(found.colours, expected)


def test_colours_that_are_nearly_one_are_joined() -> None:
    noisy = flat((RED, 7), (BLUE, 3), side=10) + 0.02 * (random(1, 3, 10, 10).float() - 0.5)
    found = palette(noisy, num_colours=2)
    torch.testing.assert_close(found.fractions, torch.tensor([0.7, 0.3], dtype=torch.float64))


def test_distance_between_single_colours_is_their_difference() -> None:
    a, b = palette(flat((RED, 10))), palette(flat((BLUE, 10)))
    expected = ciede2000(*srgb_to_lab(torch.tensor([[1.0, 0, 0], [0, 0, 1.0]])))
    torch.testing.assert_close(distance(a, b), expected)


def test_moving_a_share_costs_that_share() -> None:
    a, b = palette(flat((WHITE, 8), (RED, 2))), palette(flat((WHITE, 8), (BLUE, 2)))
    red, blue = srgb_to_lab(torch.tensor([[1.0, 0, 0], [0, 0, 1.0]]))
    torch.testing.assert_close(distance(a, b), 0.2 * ciede2000(red, blue))
    assert float(distance(a, a)) == 0


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_equal_shares_are_matched_as_the_best_permutation_does(size: int) -> None:
    cost = random(size, size, seed=size)
    equal = torch.full((size,), 1 / size, dtype=torch.float64)
    best = min(
        sum(float(cost[i, j]) for i, j in enumerate(order)) / size for order in itertools.permutations(range(size))
    )
    assert float((transport(equal, equal, cost) * cost).sum()) == pytest.approx(best)


@pytest.mark.parametrize("seed", range(8))
def test_transport_moves_everything(seed: int) -> None:
    m, n = 3 + seed % 6, 8 - seed % 5
    supply, demand, cost = shares(m, seed), shares(n, seed + 100), random(m, n, seed=seed + 200)
    moved = transport(supply, demand, cost)
    torch.testing.assert_close(moved.sum(1), supply)
    torch.testing.assert_close(moved.sum(0), demand)
    assert (moved >= 0).all()


def test_batches_are_one_set() -> None:
    images = random(6, 3, 9, 9).float() * 2 - 1
    whole, parts = palette(images), palette(images[:2], images[2:])
    torch.testing.assert_close(parts.fractions, whole.fractions)
    assert float(distance(parts, whole)) == pytest.approx(0, abs=1e-6)


def test_small_images_count_as_much_as_large_ones_and_grey_as_colour() -> None:
    found = palette(flat((RED, 10)), flat((BLUE, 40), side=40))
    torch.testing.assert_close(found.fractions, torch.tensor([0.5, 0.5], dtype=torch.float64))
    assert float(palette(torch.zeros(1, 1, 4, 4)).colours[0, 1:].abs().max()) < 0.01


def test_needs_an_image() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        palette(torch.empty(0, 3, 4, 4))
