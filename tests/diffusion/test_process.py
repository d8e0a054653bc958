from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor

from diffusion_train.diffusion.parameterization import X0, EDMPrediction, Epsilon, Flow, Parameterization, V
from diffusion_train.diffusion.process import GaussianDiffusion
from diffusion_train.diffusion.schedule.base import Schedule
from diffusion_train.diffusion.schedule.cosine import Cosine
from diffusion_train.diffusion.schedule.edm import EDM
from diffusion_train.diffusion.schedule.linear import Linear
from diffusion_train.diffusion.schedule.rectified_flow import RectifiedFlow
from diffusion_train.diffusion.time_sampler import Discrete, LogitNormal, LogNormal, Stratified, TimeSampler, Uniform
from diffusion_train.diffusion.weighting import EDMWeight, MinSNR, Noise, Output, Velocity, Weighting
from diffusion_train.utils.rng import Rng
from diffusion_train.utils.tensor import expand

Data = tuple[Tensor, Tensor]
Pair = tuple[Schedule, Parameterization]
Weightings = dict[str, Weighting]


def process_of(
    schedule: Schedule,
    parameterization: Parameterization,
    weighting: Weighting | None = None,
    offset_noise: float = 0.0,
) -> GaussianDiffusion:
    return GaussianDiffusion(schedule, parameterization, weighting or Output(), Uniform(), offset_noise)


def processes_of(
    schedule: Schedule, parameterization: Parameterization, weightings: Iterable[Weighting]
) -> list[GaussianDiffusion]:
    return [process_of(schedule, parameterization, each) for each in weightings if not each.conflicts(schedule)]


def perfect(process: GaussianDiffusion, x0: Tensor, noise: Tensor, t: Tensor) -> Callable[..., Tensor]:
    return lambda xt, label: process.target(x0, noise, t)


def guessing_noise(process: GaussianDiffusion, guess: Tensor, t: Tensor) -> Callable[..., Tensor]:
    """A network of any parameterization that means: the noise is `guess`."""

    def network(xt: Tensor, label: Tensor) -> Tensor:
        alpha, sigma = (expand(values, xt) for values in process.schedule.alpha_sigma(t))
        return process.target((xt - sigma * guess) / alpha, guess, t)

    return network


def test_split_undoes_the_target(pair: Pair, data: Data) -> None:
    process, (x0, noise) = process_of(*pair), data
    t = torch.linspace(process.schedule.t_min, 1, len(x0))
    prediction = process.split(process.target(x0, noise, t), process.add_noise(x0, noise, t), t)
    torch.testing.assert_close(prediction.x0, x0, rtol=0, atol=2e-6)
    torch.testing.assert_close(prediction.noise, noise, rtol=0, atol=2e-6)


def test_predict_tells_the_network_the_label_and_the_conditions(pair: Pair, data: Data) -> None:
    process, (x0, noise) = process_of(*pair), data
    t = torch.full((len(x0),), 0.5)
    text = torch.ones(len(x0), 4)

    def network(xt: Tensor, label: Tensor, *, text: Tensor) -> Tensor:
        assert torch.equal(label, process.schedule.label(t))
        assert text.shape == (len(x0), 4)
        return process.target(x0, noise, t)

    prediction = process.predict(network, process.add_noise(x0, noise, t), t, text=text)
    torch.testing.assert_close(prediction.x0, x0, rtol=0, atol=2e-6)
    assert process.loss_at(network, x0, noise, t, text=text).loss.max() == 0


def test_a_perfect_network_has_no_loss(pair: Pair, data: Data, weightings: Weightings) -> None:
    x0, noise = data
    for process in processes_of(*pair, [*weightings.values(), Output()]):
        t = torch.linspace(process.schedule.t_min, 1, len(x0))
        losses = process.loss_at(perfect(process, x0, noise, t), x0, noise, t)
        assert torch.equal(losses.loss, torch.zeros_like(losses.loss))
        assert torch.equal(losses.noise_mse, torch.zeros_like(losses.loss))


def test_losses_are_finite_from_the_smallest_time_to_pure_noise(pair: Pair, weightings: Weightings) -> None:
    for process in processes_of(*pair, [*weightings.values(), Output()]):
        t = torch.tensor([process.schedule.t_min / 100, process.schedule.t_min, 0.5, 1 - 2**-24, 1])
        losses = process.loss_at(lambda xt, label: torch.zeros_like(xt), torch.ones(5, 4), torch.ones(5, 4), t)
        assert losses.loss.isfinite().all()
        assert losses.noise_mse.isfinite().all()


def test_the_loss_of_a_guess_does_not_depend_on_the_parameterization(
    pair: Pair, data: Data, weightings: Weightings
) -> None:
    x0, noise = data
    guess = noise + 0.1 * x0
    t = torch.linspace(0.02, 0.98, len(x0))
    for process in processes_of(*pair, weightings.values()):
        losses = process.loss_at(guessing_noise(process, guess, t), x0, noise, t)
        twin = process_of(process.schedule, V(), process.weighting)
        expected = twin.loss_at(guessing_noise(twin, guess, t), x0, noise, t)
        torch.testing.assert_close(losses.loss, expected.loss, rtol=5e-6, atol=0)
        torch.testing.assert_close(losses.noise_mse, (guess - noise).square().mean((1, 2)), rtol=5e-6, atol=0)


def test_noise_weighting_is_plain_mse_on_the_noise(pair: Pair, data: Data) -> None:
    process, (x0, noise) = process_of(*pair, Noise()), data
    t = torch.linspace(0.02, 0.98, len(x0))
    guess = 0.7 * noise
    losses = process.loss_at(guessing_noise(process, guess, t), x0, noise, t)
    torch.testing.assert_close(losses.loss, (guess - noise).square().mean((1, 2)), rtol=5e-6, atol=0)


def test_output_weighting_is_plain_mse_on_the_target(pair: Pair, data: Data) -> None:
    process, (x0, noise) = process_of(*pair, Output()), data
    t = torch.linspace(process.schedule.t_min, 1, len(x0))
    losses = process.loss_at(lambda xt, label: torch.ones_like(xt), x0, noise, t)
    torch.testing.assert_close(losses.loss, (process.target(x0, noise, t) - 1).square().mean((1, 2)), rtol=1e-6, atol=0)


def test_loss_carries_gradients_and_noise_mse_does_not(data: Data) -> None:
    process, (x0, noise) = process_of(Linear(), Epsilon()), data
    scale = torch.ones((), requires_grad=True)
    losses = process.loss_at(lambda xt, label: scale * xt, x0, noise, torch.full((len(x0),), 0.5))
    assert losses.loss.requires_grad
    assert not losses.noise_mse.requires_grad


@pytest.mark.parametrize(
    ("dtype", "expected"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)], ids=str
)
def test_errors_are_taken_in_float32_at_least(dtype: torch.dtype, expected: torch.dtype) -> None:
    process = process_of(Cosine(), V())
    x0, noise = torch.randn(2, 4, 3).to(dtype)
    t = torch.linspace(0.1, 1, 4)
    assert process.loss_at(lambda xt, label: xt.to(dtype), x0, noise, t).loss.dtype == expected
    assert process.predict(lambda xt, label: xt.to(dtype), x0, t).x0.dtype == expected


def test_an_output_of_another_shape_is_refused(data: Data) -> None:
    process, (x0, noise) = process_of(Cosine(), V()), data
    with pytest.raises(ValueError, match=r"\(32, 1, 2\).*\(32, 3, 2\)"):
        process.loss_at(lambda xt, label: xt[:, :1], x0, noise, torch.full((len(x0),), 0.5))


def test_v_at_zero_terminal_snr_predicts_from_pure_noise() -> None:
    """At alpha = 0 the target is -x0."""
    process = process_of(Cosine(zero_terminal_snr=True), V())
    prediction = process.split(torch.full((1, 2), -3.0), torch.full((1, 2), 0.5), torch.ones(1))
    assert torch.equal(prediction.x0, torch.full((1, 2), 3.0))
    assert torch.equal(prediction.noise, torch.full((1, 2), 0.5))


@pytest.mark.parametrize("shape", [(5, 2), (5, 3, 4), (5, 3, 4, 4), (5, 1, 2, 3, 4)], ids=str)
def test_training_draws_depend_on_the_row_alone(shape: tuple[int, ...]) -> None:
    process = process_of(Cosine(), V(), offset_noise=0.1)
    x0 = torch.linspace(-1, 1, 5 * torch.Size(shape[1:]).numel()).reshape(shape)

    def network(xt: Tensor, label: Tensor) -> Tensor:
        return torch.tanh(xt)

    whole = process.loss(network, x0, Rng.at_step(7, 3, range(5), 5))
    part = process.loss(network, x0[3:], Rng.at_step(7, 3, range(3, 5), 5))
    assert torch.equal(whole.t[3:], part.t)
    torch.testing.assert_close(whole.loss[3:], part.loss, rtol=1e-6, atol=0)
    assert not torch.equal(whole.t, process.loss(network, x0, Rng.at_step(7, 4, range(5), 5)).t)


def test_training_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    process_of(Cosine(), V(), offset_noise=0.1).loss(
        lambda xt, label: xt, torch.ones(4, 2), Rng.at_step(0, 0, range(4), 4)
    )
    assert torch.equal(torch.get_rng_state(), before)


def test_offset_noise_shifts_whole_channels() -> None:
    """Noise + offset * (one number a channel): variance 1 + offset^2, covariance of two places offset^2."""
    seen: list[Tensor] = []

    def network(xt: Tensor, label: Tensor) -> Tensor:
        seen.append(xt)
        return xt

    class PureNoise(TimeSampler):
        def __call__(self, u: Tensor) -> Tensor:
            return torch.ones_like(u)

    process = GaussianDiffusion(RectifiedFlow(), Flow(), Output(), PureNoise(), offset_noise=0.5)
    losses = process.loss(network, torch.zeros(400, 2, 6, 6), Rng.at_step(0, 0, range(400), 400))
    means = seen[0].mean((2, 3))
    assert means.var().item() == pytest.approx(0.25 + 1 / 36, rel=0.15)
    assert seen[0].var().item() == pytest.approx(1.25, rel=0.05)
    assert torch.corrcoef(means.T)[0, 1].abs() < 0.15
    # with x0 = 0 and t = 1 both the input and the target are the noise, offset included
    assert losses.loss.max() == 0


@pytest.mark.parametrize("sigma_data", [0.5, 1.3])
def test_edm_is_table_1_of_karras(sigma_data: float, data: Data) -> None:
    schedule = EDM(sigma_data=sigma_data)
    process = process_of(schedule, EDMPrediction(sigma_data), EDMWeight(sigma_data))
    x0, noise = data
    s = torch.logspace(-2, 1.5, len(x0)).double()
    t = schedule.t_at(-2 * s.log())
    s = expand(s, x0)

    c_skip = sigma_data**2 / (s**2 + sigma_data**2)
    c_out = s * sigma_data / (s**2 + sigma_data**2).sqrt()
    c_in = 1 / (s**2 + sigma_data**2).sqrt()
    c_noise = s.flatten().log() / 4
    weight = (s**2 + sigma_data**2) / (s * sigma_data) ** 2

    def network(x: Tensor, label: Tensor) -> Tensor:
        torch.testing.assert_close(label.double(), c_noise, rtol=1e-4, atol=1e-5)
        return torch.sin(3 * x)

    x = x0 + s * noise
    torch.testing.assert_close(process.add_noise(x0, noise, t), c_in * x, rtol=0, atol=1e-5)
    denoised = c_skip * x + c_out * torch.sin(3 * c_in * x)
    torch.testing.assert_close(process.predict(network, c_in * x, t).x0, denoised, rtol=0, atol=2e-5)
    expected = (weight * (denoised - x0) ** 2).mean((1, 2))
    torch.testing.assert_close(process.loss_at(network, x0, noise, t).loss, expected, rtol=1e-3, atol=0)


ILLEGAL = [
    pytest.param(
        Linear(zero_terminal_snr=True), Epsilon(), Noise(), Uniform(), 0, ["Epsilon", "Linear"], id="epsilon, ztsnr"
    ),
    pytest.param(RectifiedFlow(), Epsilon(), Noise(), Uniform(), 0, ["Epsilon", "RectifiedFlow"], id="epsilon, flow"),
    pytest.param(EDM(), EDMPrediction(1.0), Output(), Uniform(), 0, ["sigma_data=1 ", "=0.5"], id="edm prediction"),
    pytest.param(EDM(), EDMPrediction(), EDMWeight(1.0), Uniform(), 0, ["weighting.sigma_data=1 "], id="edm weighting"),
    pytest.param(Linear(), V(), Noise(), Discrete(999), 0, ["num_steps=999", "num_steps=1000"], id="discrete times"),
    pytest.param(Linear(), V(), Noise(), Stratified(Discrete(9)), 0, ["num_steps=9,"], id="stratified discrete times"),
    pytest.param(EDM(), V(), Noise(), LogNormal(EDM(sigma_max=9)), 0, ["LogNormal"], id="log-normal times"),
    pytest.param(Linear(), V(), Noise(), LogNormal(Cosine()), 0, ["Cosine", "Linear"], id="times of another schedule"),
    pytest.param(Linear(), V(), Noise(), Uniform(), -0.1, ["offset_noise=-0.1"], id="offset noise"),
    pytest.param(
        RectifiedFlow(),
        Epsilon(),
        EDMWeight(),
        LogNormal(EDM()),
        -1,
        ["Epsilon", "LogNormal", "offset"],
        id="all at once",
    ),
]


@pytest.mark.parametrize(
    ("schedule", "parameterization", "weighting", "time_sampler", "offset_noise", "names"), ILLEGAL
)
def test_illegal_pairs_are_refused_by_name(
    schedule: Schedule,
    parameterization: Parameterization,
    weighting: Weighting,
    time_sampler: TimeSampler,
    offset_noise: float,
    names: list[str],
) -> None:
    with pytest.raises(ValueError, match=re.escape(names[0])) as error:
        GaussianDiffusion(schedule, parameterization, weighting, time_sampler, offset_noise)
    for name in names:
        assert name in str(error.value)


LEGAL = [
    pytest.param(Linear(), EDMPrediction(0.7), EDMWeight(0.3), Discrete(1000), id="edm parts on a discrete schedule"),
    pytest.param(RectifiedFlow(), X0(), Noise(), Discrete(50), id="discrete times of a continuous schedule"),
    pytest.param(EDM(), Epsilon(), EDMWeight(), LogNormal(EDM()), id="log-normal times of an equal schedule"),
    pytest.param(Linear(zero_terminal_snr=True), V(), Noise(), LogitNormal(), id="v with zero terminal SNR"),
]


@pytest.mark.parametrize(("schedule", "parameterization", "weighting", "time_sampler"), LEGAL)
def test_unusual_but_legal_parts_train(
    schedule: Schedule, parameterization: Parameterization, weighting: Weighting, time_sampler: TimeSampler
) -> None:
    process = GaussianDiffusion(schedule, parameterization, weighting, time_sampler)
    losses = process.loss(lambda xt, label: xt, torch.ones(8, 2), Rng.at_step(0, 0, range(8), 8))
    assert (losses.loss > 0).all()
    assert losses.loss.isfinite().all()


@pytest.mark.parametrize(
    ("schedule", "weighting", "noted"),
    [
        (Cosine(zero_terminal_snr=True), MinSNR(), True),
        (Cosine(zero_terminal_snr=True), Output(), False),
        (Cosine(), MinSNR(), False),
        (RectifiedFlow(), Noise(), True),
        (RectifiedFlow(), Velocity(), False),
        (EDM(), MinSNR(), False),
    ],
    ids=lambda part: type(part).__name__,
)
def test_a_weighting_that_leaves_the_start_of_sampling_untrained_is_noted(
    schedule: Schedule, weighting: Weighting, noted: bool
) -> None:
    """The gradient at t = 1 is zero there, and only there."""
    diffusion = GaussianDiffusion(schedule, V(), weighting, Uniform())
    scale = torch.ones((), requires_grad=True)
    at = torch.ones(1)
    diffusion.loss_at(lambda x, label: scale * x, torch.ones(1, 3), torch.full((1, 3), 2.0), at).loss.sum().backward()
    assert scale.grad is not None
    assert (scale.grad.item() == 0) == noted
    assert len(diffusion.notes()) == noted
    assert all(f"{type(weighting).__name__} is 0 at t = 1" in note for note in diffusion.notes())
