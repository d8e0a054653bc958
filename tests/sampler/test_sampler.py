"""What holds for every sampler."""

from __future__ import annotations

from pathlib import Path

import hydra
import pytest
import torch

from diffusion_train.diffusion.process import Prediction
from diffusion_train.diffusion.schedule.base import Schedule
from diffusion_train.diffusion.schedule.edm import EDM
from diffusion_train.diffusion.schedule.linear import Linear
from diffusion_train.sampler.base import Sampler, clipped
from diffusion_train.sampler.ddim import DDIM
from diffusion_train.sampler.grid import Uniform
from diffusion_train.sampler.heun import Heun
from diffusion_train.utils.rng import Rng
from diffusion_train.utils.tensor import expand

CONF = Path(__file__).parents[2] / "conf" / "sampler"


def test_a_sample_does_not_depend_on_its_batch(make_sampler, schedule, gaussian):
    """A row is the same alone, in company, and in any order.

    Within rounding: the last elements of a tensor, which fill no vector register, take scalar instructions.
    """

    def sample(seeds):
        rng = Rng.for_samples(seeds)
        noise = rng.normal("start", (3, 5))
        return make_sampler(6).sample(gaussian.predictor(schedule), schedule, noise, rng)

    together = sample([11, 12, 13])
    torch.testing.assert_close(sample([12])[0], together[1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sample([13, 11]), together[[2, 0]], rtol=1e-5, atol=1e-5)
    assert not torch.equal(together[0], together[1])


def test_predictions_are_asked_above_time_zero(make_sampler, schedule, gaussian):
    times = []
    exact = gaussian.predictor(schedule)

    def predict(xt, t):
        assert t.shape == (2,)
        assert t.dtype == torch.float32
        times.append(t[0].item())
        return exact(xt, t)

    sampler = make_sampler(8)
    rng = Rng.for_samples([0, 1])
    sampler.sample(predict, schedule, rng.normal("start", (4,)), rng)
    assert min(times) > 0
    assert times == sorted(times, reverse=True)
    assert len(times) == (15 if isinstance(sampler, Heun) else 8)


@pytest.mark.parametrize("last", [0.3, 1e-5], ids=["a level", "below the schedule's smallest"])
def test_no_sampler_predicts_at_the_last_time(make_sampler, schedule, gaussian, last):
    times, exact = [], gaussian.predictor(schedule)

    def predict(xt, t):
        times.append(t[0].item())
        return exact(xt, t)

    rng = Rng.for_samples([0])
    grid = torch.tensor([1.0, 0.7, 0.4, last])
    assert make_sampler(3)(predict, schedule, rng.normal("start", (4,)), grid, rng).isfinite().all()
    assert min(times) == grid[2]


def test_one_step_answers_the_first_prediction(make_sampler, schedule, gaussian):
    rng = Rng.for_samples([0, 1])
    noise = rng.normal("start", (4,))
    sigma = schedule.alpha_sigma(torch.ones(1))[1]
    first = gaussian.predictor(schedule)(sigma * noise, torch.ones(2)).x0
    torch.testing.assert_close(make_sampler(1).sample(gaussian.predictor(schedule), schedule, noise, rng), first)


def test_only_fresh_noise_takes_draws(schedule, gaussian):
    """eta = 0 is the same whatever the rng; eta > 0 is not."""
    noise = Rng.for_samples([0, 1]).normal("start", (4,))

    def sample(eta, seeds):
        sampler = DDIM(5, Uniform(), eta=eta)
        return sampler.sample(gaussian.predictor(schedule), schedule, noise, Rng.for_samples(seeds))

    assert torch.equal(sample(0.0, [0, 1]), sample(0.0, [2, 3]))
    assert not torch.equal(sample(1.0, [0, 1]), sample(1.0, [2, 3]))


class Scaled(Schedule):
    """The same noise levels on another scale of x, which changes with t."""

    def __init__(self, schedule):
        self.schedule = schedule

    def alpha_sigma(self, t):
        alpha, sigma = self.schedule.alpha_sigma(t)
        return alpha * (1 + t), sigma * (1 + t)


def test_scale_of_the_schedule_changes_nothing(make_sampler, gaussian):
    rng = Rng.for_samples([0, 1])
    noise = rng.normal("start", (4,)).double()
    plain, scaled = (
        make_sampler(10).sample(gaussian.predictor(schedule), schedule, noise, rng)
        for schedule in (EDM(), Scaled(EDM()))
    )
    torch.testing.assert_close(scaled, plain, rtol=0, atol=1e-6)


def test_clipped_prediction_is_consistent(schedule):
    xt, t = torch.linspace(-3, 3, 10).reshape(2, 5), torch.tensor([0.9, 0.3])
    alpha, sigma = (expand(v, xt) for v in schedule.alpha_sigma(t))
    p = clipped(lambda x, t: Prediction(x0=2 * x, noise=(1 - 2 * alpha) * x / sigma), schedule)(xt, t)
    torch.testing.assert_close(p.x0, (2 * xt).clamp(-1, 1))
    torch.testing.assert_close(alpha * p.x0 + sigma * p.noise, xt)


@pytest.mark.parametrize("clip_x0", [True, False])
def test_clip_x0_bounds_samples(clip_x0, gaussian):
    noise = torch.tensor([[6.0], [-6.0]])
    sampler = DDIM(10, Uniform(), clip_x0=clip_x0)
    x = sampler.sample(gaussian.predictor(Linear()), Linear(), noise, Rng.for_samples([0, 1]))
    assert (x.abs().max() <= 1) == clip_x0


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.stem)
def test_yaml_builds_a_sampler(path):
    sampler = of_yaml(path.stem)
    assert isinstance(sampler, Sampler)
    assert sampler.grid(Linear(), sampler.num_steps)[0] == 1


def test_ddpm_yaml_is_eta_1():
    assert of_yaml("ddpm").eta == 1


def of_yaml(name):
    with hydra.initialize_config_dir(str(CONF.parent), version_base="1.3"):
        return hydra.utils.instantiate(hydra.compose(None, [f"+sampler={name}"]).sampler)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"num_steps": 0}, "num_steps=0"), ({"num_steps": 5, "eta": 1.5}, "eta=1.5")],
    ids=["num_steps", "eta"],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DDIM(grid=Uniform(), **settings)
