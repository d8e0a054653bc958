from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from diffusion_train.metric.colour import ciede2000, srgb_to_lab
from diffusion_train.metric.palette import PaletteDistance, distance, palette, transport

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
    torch.testing.assert_close(found.shares, torch.tensor([0.7, 0.3], dtype=torch.float64))
    expected = srgb_to_lab(torch.tensor([[1.0, 0, 0], [0, 0, 1.0]]))
    torch.testing.assert_close(found.colours, expected)


def test_colours_that_are_nearly_one_are_joined() -> None:
    noisy = flat((RED, 7), (BLUE, 3), side=10) + 0.02 * (random(1, 3, 10, 10).float() - 0.5)
    found = palette(noisy, num_colours=2)
    torch.testing.assert_close(found.shares, torch.tensor([0.7, 0.3], dtype=torch.float64))


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
def test_transport_moves_everything_at_the_cost_of_a_linear_program(seed: int) -> None:
    optimize = pytest.importorskip("scipy.optimize")
    m, n = 3 + seed % 6, 8 - seed % 5
    supply, demand, cost = shares(m, seed), shares(n, seed + 100), random(m, n, seed=seed + 200)
    moved = transport(supply, demand, cost)
    torch.testing.assert_close(moved.sum(1), supply)
    torch.testing.assert_close(moved.sum(0), demand)
    assert (moved >= 0).all()
    rows = [np.kron(np.eye(m)[i], np.ones(n)) for i in range(m)] + [np.tile(np.eye(n)[j], m) for j in range(n)]
    reference = optimize.linprog(cost.flatten().numpy(), A_eq=np.array(rows), b_eq=torch.cat([supply, demand]).numpy())
    assert float((moved * cost).sum()) == pytest.approx(reference.fun, abs=1e-9)


def metric_of(real: Tensor, generated: Tensor) -> float:
    metric = PaletteDistance()
    metric.update(real, real=True)
    metric.update(generated, real=False)
    return float(metric.compute())


def test_updates_and_ranks_are_one() -> None:
    real, generated = random(6, 3, 9, 9).float() * 2 - 1, random(4, 3, 9, 9, seed=1).float()
    ranks = [PaletteDistance(), PaletteDistance()]
    for metric, rows in zip(ranks, (slice(0, 3), slice(3, None)), strict=True):
        metric.update(real[rows], real=True)
        metric.update(generated[rows], real=False)
    ranks[0].merge_state(ranks[1])
    assert float(ranks[0].compute()) == pytest.approx(metric_of(real, generated))
    assert metric_of(real, generated) == pytest.approx(float(distance(palette(real), palette(generated))))


def test_small_images_count_as_much_as_large_ones_and_grey_as_colour() -> None:
    metric = PaletteDistance()
    metric.update(flat((RED, 10)), real=True)
    metric.update(flat((BLUE, 40), side=40), real=True)
    metric.update(torch.zeros(1, 1, 4, 4), real=False)
    real, generated = metric.palettes()
    torch.testing.assert_close(real.shares, torch.tensor([0.5, 0.5], dtype=torch.float64))
    assert float(generated.colours[0, 1:].abs().max()) < 1e-3


def test_needs_images_on_both_sides() -> None:
    metric = PaletteDistance()
    metric.update(flat((RED, 10)), real=True)
    with pytest.raises(ValueError, match="at least one image"):
        metric.palettes()
