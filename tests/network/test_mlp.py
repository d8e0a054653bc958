from __future__ import annotations

import pytest
import torch
from torch import Tensor

from diffusion_train.network.mlp import MLP

LABEL = torch.tensor([0, 1, 4])
POINTS = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))


def test_predicts_zero_at_the_start(t: Tensor) -> None:
    assert not MLP(2, 16, 2)(POINTS, t).any()


def test_output_is_like_x(points: MLP, t: Tensor) -> None:
    out = points.double()(POINTS.double(), t, label=LABEL)
    assert (out.shape, out.dtype) == ((3, 2), torch.float64)


def test_label_and_time_matter(points: MLP, t: Tensor) -> None:
    out = points(POINTS, t, label=LABEL)
    assert (out - points(POINTS, t, label=LABEL.flip(0))).abs()[0].max() > 1e-4
    assert (out - points(POINTS, t.flip(0), label=LABEL)).abs()[0].max() > 1e-4


def test_rows_are_independent(points: MLP, t: Tensor) -> None:
    alone = torch.cat([points(POINTS[i : i + 1], t[i : i + 1], label=LABEL[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(points(POINTS, t, label=LABEL), alone, rtol=0, atol=1e-5)


def test_every_parameter_learns(points: MLP, t: Tensor) -> None:
    points(POINTS, t, label=LABEL).square().mean().backward()
    assert [n for n, p in points.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_absent_label_and_unknown_condition_are_refused(points: MLP, t: Tensor) -> None:
    with pytest.raises(ValueError, match="without `label`"):
        points(POINTS, t)
    with pytest.raises(TypeError, match="text"):
        points(POINTS, t, label=LABEL, text=POINTS)
