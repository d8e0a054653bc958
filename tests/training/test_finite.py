"""Rows that are no numbers are replaced by one that is, whatever they belong to."""

from __future__ import annotations

import pytest
import torch

from diffusion_train.training.finite import replace_rows

NAN, INF = float("nan"), float("inf")


def batch() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    x0, text = torch.randn(4, 2, 3, generator=generator), torch.randn(4, 5, generator=generator)
    return x0, {"text": text, "label": torch.arange(4), "text_mask": torch.tensor([True, False, True, True])}


def test_finite_rows_stay_bit_for_bit() -> None:
    x0, cond = batch()
    replaced, conditions, finite = replace_rows(x0, cond)
    assert torch.equal(replaced, x0)
    assert all(
        torch.equal(conditions[name], value) and conditions[name].dtype == value.dtype for name, value in cond.items()
    )
    assert finite.tolist() == [True] * 4


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("name", ["x0", "text"])
def test_a_row_is_replaced_in_latents_and_conditions_together(name: str, value: float) -> None:
    x0, cond = batch()
    everything = {"x0": x0, **cond}
    everything[name][[0, 2], ..., 1] = value
    replaced, conditions, finite = replace_rows(x0, cond)
    assert finite.tolist() == [False, True, False, True]
    for key, row in {"x0": replaced, **conditions}.items():
        assert torch.equal(row, everything[key][[1, 1, 1, 3]]), key


def test_without_a_finite_row_nothing_is_replaced() -> None:
    replaced, _, finite = replace_rows(torch.full((2, 3), NAN), {})
    assert replaced.isnan().all()
    assert not finite.any()
