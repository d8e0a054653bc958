from __future__ import annotations

import pytest
import torch

from diffusion_train.data.points import KINDS, PointsDataset


@pytest.mark.parametrize("kind", KINDS)
def test_points_fill_the_unit_square(kind):
    points = PointsDataset(kind, 2000).points
    assert points.shape == (2000, 2)
    assert points.dtype == torch.float32
    assert 0.8 < points.abs().max() < 1.3
    assert points.mean(0).abs().max() < 0.2


def test_a_checkerboard_has_empty_squares():
    square = ((PointsDataset("checkerboard", 4000).points + 1) * 2).long().clamp_(0, 3)
    assert ((square.sum(1) % 2) == 0).all()
    assert len(square.unique(dim=0)) == 8


def test_points_are_a_function_of_kind_and_seed():
    one, same, other = PointsDataset("spiral", 50, 1), PointsDataset("spiral", 50, 1), PointsDataset("spiral", 50, 2)
    assert torch.equal(one.points, same.points)
    assert one.fingerprint == same.fingerprint != other.fingerprint


def test_held_out_points_are_others():
    dataset = PointsDataset("two_moons", 100, num_holdout=30)
    held_out = dataset.holdout()
    assert (len(dataset), len(held_out)) == (100, 30)
    assert not torch.isin(held_out.points, dataset.points).any()
    assert len(PointsDataset("two_moons", 100).holdout()) == 0


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match=r"data\.kind=moon: must be one of two_moons, "):
        PointsDataset("moon", 10)
