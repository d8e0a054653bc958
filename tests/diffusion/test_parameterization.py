from __future__ import annotations

import pytest
import torch

from diffusion_train.diffusion.parameterization import X0, EDMPrediction, Epsilon, Flow, Parameterization, V

ALPHA, SIGMA = torch.tensor([0.8]), torch.tensor([0.6])


@pytest.mark.parametrize(
    ("parameterization", "expected"),
    [
        pytest.param(Epsilon(), (0, 1), id="epsilon"),
        pytest.param(X0(), (1, 0), id="x0"),
        pytest.param(V(), (-0.6, 0.8), id="v"),
        pytest.param(Flow(), (-1, 1), id="flow"),
        pytest.param(EDMPrediction(0.5), (1.2 / 0.52**0.5, -0.4 / 0.52**0.5), id="edm"),
    ],
)
def test_coefficients_of_the_papers(parameterization: Parameterization, expected: tuple[float, float]) -> None:
    a, b = parameterization.coefficients(ALPHA, SIGMA)
    assert (a.item(), b.item()) == pytest.approx(expected)


def test_coefficients_keep_shape_and_dtype(parameterization: Parameterization) -> None:
    for value in parameterization.coefficients(torch.rand(5), torch.rand(5)):
        assert value.shape == (5,)
        assert value.dtype == torch.float32


def test_sigma_data_must_be_positive() -> None:
    with pytest.raises(ValueError, match="sigma_data=0"):
        EDMPrediction(0)
