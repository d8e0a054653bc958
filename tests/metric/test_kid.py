from __future__ import annotations

import pytest
import torch
from torch import Tensor

from diffusion_train.metric import kid as module
from diffusion_train.metric.kid import KID, estimate, mmd


def kernel(x: Tensor, y: Tensor) -> float:
    return float((x.double() @ y.double() / len(x) + 1) ** 3)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def kid_of(real: Tensor, generated: Tensor) -> float:
    metric = KID()
    metric.update(real, real=True)
    metric.update(generated, real=False)
    return float(metric.compute())


def test_equals_the_sum_over_pairs_written_out() -> None:
    real, generated = normal(7, 4), normal(5, 4, seed=1) + 0.3

    def within(rows: Tensor) -> float:
        values = [kernel(a, b) for i, a in enumerate(rows) for j, b in enumerate(rows) if i != j]
        return sum(values) / len(values)

    between = [kernel(a, b) for a in real for b in generated]
    expected = within(real) + within(generated) - 2 * sum(between) / len(between)
    assert kid_of(real, generated) == pytest.approx(expected, rel=1e-5)


def test_equals_torchmetrics_for_sets_of_one_size() -> None:
    reference = pytest.importorskip("torchmetrics.image.kid")
    real, generated = normal(20, 6).double(), normal(20, 6, seed=1).double() + 0.5
    torch.testing.assert_close(mmd(real, generated), reference.poly_mmd(real, generated))


def test_two_points_are_as_far_apart_as_their_kernels_say() -> None:
    a, b = normal(4), normal(4, seed=1)
    expected = kernel(a, a) + kernel(b, b) - 2 * kernel(a, b)
    assert kid_of(a.repeat(6, 1), b.repeat(3, 1)) == pytest.approx(expected, rel=1e-5)


def test_is_zero_on_average_for_sets_of_one_distribution() -> None:
    values = torch.stack([mmd(normal(12, 3, seed=2 * i), normal(9, 3, seed=2 * i + 1)) for i in range(400)])
    assert abs(values.mean()) < 3 * values.std() / 20
    assert values.min() < 0


def test_does_not_depend_on_the_size_of_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    real, generated = normal(10, 4), normal(8, 4, seed=1)
    whole = mmd(real, generated)
    monkeypatch.setattr(module, "CHUNK", 3)
    torch.testing.assert_close(mmd(real, generated), whole)


def test_two_updates_are_one() -> None:
    real, generated = normal(10, 4), normal(8, 4, seed=1)
    metric = KID()
    for rows in (slice(0, 3), slice(3, None)):
        metric.update(generated[rows], real=False)
        metric.update(real[rows], real=True)
    assert float(metric.compute()) == pytest.approx(kid_of(real, generated))


def test_states_of_two_ranks_are_one() -> None:
    real, generated = normal(10, 4), normal(8, 4, seed=1)
    ranks = [KID(), KID()]
    for metric, rows in zip(ranks, (slice(0, 3), slice(3, None)), strict=True):
        metric.update(generated[rows], real=False)
        metric.update(real[rows], real=True)
    ranks[0].merge_state(ranks[1])
    assert float(ranks[0].compute()) == pytest.approx(kid_of(real, generated))


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
@pytest.mark.parametrize("num_generated", [0, 1])
def test_needs_two_rows_a_side(num_generated: int) -> None:
    metric = KID()
    metric.update(normal(5, 4), real=True)
    if num_generated:
        metric.update(normal(num_generated, 4), real=False)
    with pytest.raises(ValueError, match="at least two real and two generated"):
        metric.compute()


def test_an_estimate_leaves_out_groups_and_rows() -> None:
    x, y = normal(12, 8), normal(5, 8, seed=1)
    found = estimate(x, y, group_size=3)
    assert found.value == pytest.approx(float(mmd(x, y)))
    groups = [float(mmd(torch.cat([x[: 3 * g], x[3 * g + 3 :]]), y)) for g in range(4)]
    rows = [float(mmd(x, torch.cat([y[:j], y[j + 1 :]]))) for j in range(5)]
    torch.testing.assert_close(found.without_x, torch.tensor(groups, dtype=torch.float64))
    torch.testing.assert_close(found.without_y, torch.tensor(rows, dtype=torch.float64))
    assert (found - found).error == 0
    assert estimate(x[:6], y, group_size=3).error is None
    assert estimate(x, y[:2]).error is None


def test_the_interval_of_a_difference_holds_the_true_one_about_as_often_as_it_says() -> None:
    """Two models of one distribution: the true difference is 0. Their samples are paired, as by prompt and seed."""
    held = 0
    for trial in range(150):
        brand, (common, *own) = normal(11, 32, seed=1000 + trial), normal(3, 16, 32, seed=trial)
        before, after = (estimate(0.7 * common + 0.7 * one + 0.5, brand) for one in own)
        held += abs((after - before).value) <= ((after - before).error or 0)
    assert 0.92 <= held / 150 < 1
