from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from diffusion_train.diffusion.schedule.edm import EDM
from diffusion_train.diffusion.schedule.linear import Linear
from diffusion_train.diffusion.schedule.rectified_flow import RectifiedFlow
from diffusion_train.sampler.ddim import DDIM
from diffusion_train.sampler.dpm_solver import DPMSolver
from diffusion_train.sampler.euler import Euler
from diffusion_train.sampler.grid import BySampler, Karras, Leading, Linspace, Trailing, Uniform
from diffusion_train.sampler.heun import Heun
from diffusion_train.sampler.unipc import UniPC
from diffusion_train.utils.rng import Rng

GRIDS = {
    "uniform": Uniform(),
    "trailing": Trailing(),
    "leading": Leading(),
    "leading_skip": Leading(skip_last=True),
    "linspace": Linspace(),
    "linspace_skip": Linspace(skip_last=True),
    "karras": Karras(),
}


@pytest.mark.parametrize("num_steps", [1, 7, 50])
@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS.keys())
def test_times_fall_from_noise_to_data(grid, num_steps, schedule):
    if isinstance(grid, Karras) and schedule.zero_terminal_snr:
        pytest.skip("refused, see below")
    times = grid(schedule, num_steps)
    assert times.shape == (num_steps + 1,)
    assert times.dtype == torch.float32
    assert (times.diff() < 0).all()
    assert times[-1] == 0
    assert times[-2] >= schedule.t_min * (1 - 1e-6)
    assert times[0] == 1 or isinstance(grid, Leading)


@pytest.mark.parametrize(
    ("grid", "spacing", "offset"),
    [(Trailing(), "trailing", 0), (Leading(), "leading", 0), (Leading(offset=1), "leading", 1)],
    ids=["trailing", "leading", "leading_offset"],
)
@pytest.mark.parametrize("num_steps", [3, 7, 10, 48, 50, 1000])  # 48 trailing steps have a tie at .5
def test_diffusers_timesteps(grid, spacing, offset, num_steps):
    if num_steps == 1000 and offset:
        pytest.skip("diffusers leaves its own table there")
    scheduler = DDIMScheduler(timestep_spacing=spacing, steps_offset=offset)
    scheduler.set_timesteps(num_steps)
    labels = Linear().label(grid(Linear(), num_steps)[:-1])
    assert labels.tolist() == scheduler.timesteps.tolist()


def test_karras_is_equation_5():
    schedule, num_steps = EDM(sigma_min=0.002, sigma_max=80), 18
    alpha, sigma = schedule.alpha_sigma(Karras(rho=7)(schedule, num_steps))
    i = np.arange(num_steps)
    expected = (80 ** (1 / 7) + i / (num_steps - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(sigma / alpha, np.append(expected, 0), rtol=1e-4)


def test_uniform_ends_where_asked():
    torch.testing.assert_close(Uniform(last=0.2)(Linear(), 4), torch.tensor([1, 0.8, 0.6, 0.4, 0.2]))


@pytest.mark.parametrize(
    ("grid", "schedule", "num_steps", "message"),
    [
        (Karras(), RectifiedFlow(), 10, "infinite at t = 1"),
        (Uniform(), Linear(num_steps=50), 51, "num_steps=51"),
        (Trailing(), Linear(), 1001, "num_steps=1001"),
        (Leading(num_levels=20), Linear(), 21, "num_levels=20"),
        (Leading(skip_last=True), Linear(), 1000, "at most 999"),
        (Linspace(skip_last=True), Linear(), 1000, "at most 999"),
        (Leading(offset=1), Linear(), 1000, "num_steps=1000 is too large for a grid with an offset"),
    ],
    ids=["karras_flow", "uniform", "trailing", "leading", "leading_skip", "linspace_skip", "offset"],
)
def test_impossible_grids_are_refused(grid, schedule, num_steps, message):
    with pytest.raises(ValueError, match=message):
        grid(schedule, num_steps)


@pytest.mark.parametrize("rho", [0.0, -7.0, math.nan, math.inf])
def test_an_impossible_rho_is_refused(rho):
    with pytest.raises(ValueError, match=rf"grid\.rho={rho}: must be positive"):
        Karras(rho)


@pytest.mark.parametrize(
    ("grid", "schedule", "message"),
    [
        (Linspace(whole=False), EDM(), "needs a schedule given by a table of betas, got EDM"),
        (
            Linspace(whole=False),
            Linear(num_steps=500),
            r"num_levels=1000: must be the schedule's num_steps; set it to 500",
        ),
        (Trailing(finite=True), Linear(num_steps=500), "num_levels=1000"),
        (Karras(model=Trailing()), RectifiedFlow(), "got RectifiedFlow"),
    ],
    ids=["linspace_continuous", "linspace_count", "finite", "karras"],
)
def test_a_schedule_without_the_levels_of_the_grid_is_refused(grid, schedule, message):
    with pytest.raises(ValueError, match=message):
        grid.on(schedule)


@pytest.mark.parametrize("last", [-0.1, 1.0])
def test_impossible_last_time_is_refused(last):
    with pytest.raises(ValueError, match="last="):
        Uniform(last)


@pytest.mark.parametrize("grid", [Trailing, Leading, Linspace])
def test_an_end_at_a_level_is_taken_as_it_is(grid, gaussian):
    """The last step goes to the least noisy level, and its alpha is not divided out."""
    schedule, noise, rng = Linear(), torch.ones(1, 4), Rng.for_samples([0])
    at_level = grid(end_at_level=True)
    times = at_level(schedule, 10)
    assert times[-1] == torch.tensor(0.001)
    assert torch.equal(times[:-1], grid()(schedule, 10)[:-1])
    predict = gaussian.predictor(schedule)
    x = DDIM(10, at_level).sample(predict, schedule, noise, rng)
    divided = DDIM(10, at_level)(predict, schedule, noise, times, rng)
    torch.testing.assert_close(x, divided * schedule.alpha_sigma(times[-1:])[0], rtol=0, atol=1e-6)


def test_a_fixed_stride_leaves_the_next_start():
    """Of 7 steps, DDIM goes 142 levels down from starts that are 142 or 143 apart, and ends above the data."""
    grid, plain = Trailing(fixed_stride=True), Trailing()
    times = grid(Linear(), 7)
    assert torch.equal(times[:-1], plain(Linear(), 7)[:-1])
    levels = [(part * 1000).round().tolist() for part in (times[:-1], grid.ends(times))]
    assert [start - end for start, end in zip(*levels, strict=True)] == [142] * 7
    assert times[-1] == torch.tensor(0.001)
    assert plain.ends(times).tolist() == times[1:].tolist()


def test_zero_terminal_snr_has_a_finite_sigma():
    """alpha-bar is 2^-24 at t = 1, and as it was at all other levels; sampling on DDIM's grid leaves it at 0."""
    schedule, t = Linear(zero_terminal_snr=True), torch.arange(1, 1001) / 1000
    plain, finite = (Trailing(finite=finite).on(schedule).alpha_sigma(t)[0] for finite in (False, True))
    assert plain[-1] == 0
    assert finite[-1].item() == pytest.approx(2**-12)
    assert torch.equal(plain[:-1], finite[:-1])
    assert schedule.alpha_sigma(t[-1:])[0] == 0


def test_a_sampler_takes_the_grid_of_its_family():
    """With its own start and end; a grid for all samplers is left as it is."""
    single_step, multistep = Leading(end_at_level=True), Linspace(unit_start=True, skip_last=True)
    euler = Linspace(whole=False)
    grid = BySampler(single_step, multistep, euler)
    for make in (DPMSolver, UniPC):
        assert make(10, grid).grid is multistep
        assert make(10, single_step).grid is single_step
    for make in (Euler, Heun):
        assert make(10, grid).grid is euler
        assert make(10, BySampler(single_step, multistep)).grid is single_step  # as runs of earlier versions
    assert DDIM(10, grid).grid is single_step


def test_a_unit_start_is_the_noise_itself(gaussian):
    seen = []
    exact = gaussian.predictor(Linear())

    def predict(xt, t):
        seen.append(xt)
        return exact(xt, t)

    noise = Rng.for_samples([0]).normal("noise", (4,))
    for unit_start in (True, False):
        DDIM(1, Leading(unit_start=unit_start)).sample(predict, Linear(), noise, Rng.for_samples([0]))
    sigma = Linear().alpha_sigma(Leading()(Linear(), 1)[:1])[1]
    torch.testing.assert_close(seen[0], noise)
    torch.testing.assert_close(seen[1], sigma * noise)
