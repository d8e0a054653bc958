from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from diffusion_train.diffusion.schedule.edm import EDM
from diffusion_train.diffusion.schedule.linear import Linear
from diffusion_train.diffusion.schedule.rectified_flow import RectifiedFlow
from diffusion_train.sampler.grid import Karras, Leading, Trailing, Uniform

GRIDS = {"uniform": Uniform(), "trailing": Trailing(), "leading": Leading(), "karras": Karras()}


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
@pytest.mark.parametrize("num_steps", [3, 7, 10, 50, 1000])
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
        (Karras(), RectifiedFlow(), 10, "alpha\\(1\\) = 0"),
        (Uniform(), Linear(num_steps=50), 51, "num_steps=51"),
        (Trailing(), Linear(), 1001, "num_steps=1001"),
        (Leading(num_levels=20), Linear(), 21, "num_levels=20"),
    ],
    ids=["karras_flow", "uniform", "trailing", "leading"],
)
def test_impossible_grids_are_refused(grid, schedule, num_steps, message):
    with pytest.raises(ValueError, match=message):
        grid(schedule, num_steps)


@pytest.mark.parametrize("last", [-0.1, 1.0])
def test_impossible_last_time_is_refused(last):
    with pytest.raises(ValueError, match="last="):
        Uniform(last)
