"""What holds for every schedule."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from diffusion_train.diffusion.schedule.base import Schedule
from diffusion_train.diffusion.schedule.edm import EDM
from diffusion_train.diffusion.schedule.rectified_flow import RectifiedFlow


def times(schedule: Schedule) -> Tensor:
    return torch.linspace(schedule.t_min, 1, 777)


def test_variance_is_preserved(discrete: Schedule) -> None:
    alpha, sigma = discrete.alpha_sigma(torch.linspace(0, 1, 777))
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(777), rtol=0, atol=3e-7)


def test_log_snr_falls_strictly(schedule: Schedule) -> None:
    log_snr = schedule.log_snr(torch.linspace(0, 1, 777))
    assert (log_snr[1:] < log_snr[:-1]).all()


def test_log_snr_is_twice_the_log_of_the_ratio(schedule: Schedule) -> None:
    alpha, sigma = schedule.alpha_sigma(times(schedule))
    torch.testing.assert_close(schedule.log_snr(times(schedule)).exp(), (alpha / sigma) ** 2, rtol=2e-5, atol=0)


def test_t_at_inverts_log_snr(schedule: Schedule) -> None:
    t = times(schedule)
    torch.testing.assert_close(schedule.t_at(schedule.log_snr(t)), t, rtol=1e-5, atol=0)


def test_t_at_stays_within_the_noise_levels(schedule: Schedule) -> None:
    t = schedule.t_at(torch.tensor([torch.inf, 60.0, -60.0, -torch.inf]))
    # a zero terminal SNR reaches -60 a little before t = 1
    torch.testing.assert_close(t, torch.tensor([schedule.t_min, schedule.t_min, 1.0, 1.0]), rtol=1e-6, atol=0)


def test_t_zero_is_data_alone(schedule: Schedule) -> None:
    alpha, sigma = schedule.alpha_sigma(torch.zeros(1))
    assert sigma.item() == 0
    assert alpha.item() == (1 / schedule.sigma_data if isinstance(schedule, EDM) else 1)


def test_zero_terminal_snr_says_whether_alpha_ends_at_zero(schedule: Schedule) -> None:
    alpha, sigma = schedule.alpha_sigma(torch.ones(1))
    assert (alpha.item() == 0) == schedule.zero_terminal_snr
    assert sigma.item() == 1 or not schedule.zero_terminal_snr


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_answers_are_float32(schedule: Schedule, dtype: torch.dtype) -> None:
    t = torch.tensor([0.5, 1.0], dtype=dtype)
    answers = [*schedule.alpha_sigma(t), schedule.label(t), schedule.log_snr(t)]
    for answer in answers:
        assert answer.dtype == torch.float32
        assert answer.shape == (2,)
    torch.testing.assert_close(
        answers, [*schedule.alpha_sigma(t.float()), schedule.label(t.float()), schedule.log_snr(t.float())]
    )


def test_sigma_is_accurate_where_it_is_small(schedule: Schedule) -> None:
    """Near t = 0 sigma behaves as t or as sqrt(t): a sqrt(1 - alpha^2) in float32 would be off by per cents."""
    t = schedule.t_min * torch.tensor([1e-6, 1e-4])
    low, high = schedule.alpha_sigma(t)[1].tolist()
    power = 1.0 if isinstance(schedule, RectifiedFlow | EDM) else 0.5
    assert high / low == pytest.approx(100**power, rel=1e-4)


class AlphaSigmaAlone(Schedule):
    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cos(t * torch.pi / 2), torch.sin(t * torch.pi / 2)


def test_a_schedule_of_one_method_has_an_inverse() -> None:
    log_snr = torch.linspace(12, -12, 49)
    expected = torch.arctan(torch.exp(-log_snr.double() / 2)) * 2 / torch.pi
    torch.testing.assert_close(AlphaSigmaAlone().t_at(log_snr), expected.float(), rtol=2e-6, atol=0)
