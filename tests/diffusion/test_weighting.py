"""Weights of the papers, each on the paper's own target, on variance-preserving levels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from diffusion_train.diffusion.parameterization import X0, EDMPrediction, Epsilon, Flow, Parameterization, V
from diffusion_train.diffusion.weighting import (
    P2,
    Debiased,
    EDMWeight,
    MinSNR,
    Noise,
    Output,
    SoftMinSNR,
    Velocity,
    Weighting,
)

SNR = torch.logspace(-4, 4, 33, dtype=torch.float64)


def weight_on(target: Parameterization, weighting: Weighting) -> Tensor:
    """W / det^2: what multiplies mse(output, target)."""
    alpha, sigma = (SNR / (1 + SNR)).sqrt(), (1 / (1 + SNR)).sqrt()
    a, b = target.coefficients(alpha, sigma)
    det = alpha * b - sigma * a
    return weighting(alpha, sigma, det) / det**2


PAPERS = [
    pytest.param(Noise(), Epsilon(), torch.ones_like, id="noise on epsilon"),
    pytest.param(Noise(), V(), lambda snr: snr / (1 + snr), id="noise on v: alpha^2"),
    pytest.param(Noise(), X0(), lambda snr: snr, id="noise on x0: snr"),
    pytest.param(Noise(), Flow(), lambda snr: snr / (1 + snr.sqrt()) ** 2, id="noise on flow"),
    pytest.param(MinSNR(5), Epsilon(), lambda snr: snr.clamp(max=5) / snr, id="min-snr on epsilon"),
    pytest.param(MinSNR(5), V(), lambda snr: snr.clamp(max=5) / (snr + 1), id="min-snr on v"),
    pytest.param(MinSNR(5), X0(), lambda snr: snr.clamp(max=5), id="min-snr on x0"),
    pytest.param(SoftMinSNR(4), X0(), lambda snr: 4 * snr / (4 + snr), id="soft-min-snr on x0"),
    pytest.param(P2(1, 1), Epsilon(), lambda snr: 1 / (1 + snr), id="p2 on epsilon"),
    pytest.param(P2(2, 0.5), Epsilon(), lambda snr: 1 / (2 + snr).sqrt(), id="p2 with k and gamma"),
    pytest.param(Debiased(), Epsilon(), lambda snr: 1 / snr.sqrt(), id="debiased on epsilon"),
    pytest.param(Velocity(), Flow(), lambda snr: (400 / (1 + snr.sqrt()) ** 2).clamp(max=1), id="velocity on flow"),
    pytest.param(Velocity(1, 50), X0(), lambda snr: (1 + snr.sqrt()).clamp(max=50), id="velocity to the power 1 on x0"),
    pytest.param(Velocity(0, 50), X0(), torch.ones_like, id="velocity to the power 0 on x0"),
    pytest.param(EDMWeight(0.5), X0(), lambda snr: (1 / snr + 0.25) / (1 / snr * 0.25), id="edm on x0"),
]


@pytest.mark.parametrize(("weighting", "target", "expected"), PAPERS)
def test_weight_is_the_papers(
    weighting: Weighting, target: Parameterization, expected: Callable[[Tensor], Tensor]
) -> None:
    torch.testing.assert_close(weight_on(target, weighting), expected(SNR), rtol=1e-9, atol=0)


def test_output_weighs_every_target_by_one(parameterization: Parameterization) -> None:
    torch.testing.assert_close(weight_on(parameterization, Output()), torch.ones_like(SNR), rtol=1e-12, atol=0)


def test_soft_min_snr_stays_below_min_snr_and_meets_it_at_both_ends() -> None:
    soft, hard = weight_on(X0(), SoftMinSNR(5)), weight_on(X0(), MinSNR(5))
    assert (soft < hard).all()
    torch.testing.assert_close(soft[[0, -1]], hard[[0, -1]], rtol=1e-3, atol=0)


@pytest.mark.parametrize("sigma_data", [0.5, 1.0, 1.3])
def test_edm_weighs_its_own_output_by_one(sigma_data: float) -> None:
    """Karras et al., section 5: lambda = 1 / c_out^2. True for data of any sigma_data and any scale of the levels."""
    weight = weight_on(EDMPrediction(sigma_data), EDMWeight(sigma_data))
    torch.testing.assert_close(weight, torch.ones_like(SNR), rtol=1e-9, atol=0)


def test_weights_scale_with_the_levels(weighting: Weighting) -> None:
    """W is homogeneous of degree 2, so a rescaled schedule (EDM's) is weighted as its variance-preserving twin."""
    alpha, sigma, det = torch.rand(3, 20, dtype=torch.float64) + 0.1
    torch.testing.assert_close(weighting(3 * alpha, 3 * sigma, 3 * det), 9 * weighting(alpha, sigma, det))


@pytest.mark.parametrize(("alpha", "sigma"), [(0.0, 1.0), (1.0, 0.0)], ids=["pure noise", "pure data"])
def test_weights_are_finite_at_both_ends(weighting: Weighting, alpha: float, sigma: float) -> None:
    weight = weighting(torch.tensor([alpha]), torch.tensor([sigma]), torch.ones(1))
    assert weight.isfinite().all()
    assert (weight >= 0).all()


@pytest.mark.parametrize(
    ("member", "arguments", "message"),
    [
        pytest.param(MinSNR, {"gamma": 0}, "gamma=0", id="min-snr"),
        pytest.param(SoftMinSNR, {"gamma": -1}, "gamma=-1", id="soft-min-snr"),
        pytest.param(EDMWeight, {"sigma_data": 0}, "sigma_data=0", id="edm"),
        pytest.param(Velocity, {"power": 3}, "power=3", id="velocity power"),
        pytest.param(Velocity, {"max_weight": 0}, "max_weight=0", id="velocity cap"),
        pytest.param(P2, {"k": 0}, "k=0", id="p2 k"),
        pytest.param(P2, {"gamma": float("nan")}, "gamma=nan", id="p2 gamma"),
    ],
)
def test_impossible_weightings_are_refused(member: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        member(**arguments)
