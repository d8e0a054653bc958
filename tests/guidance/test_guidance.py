from __future__ import annotations

from pathlib import Path

import hydra
import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from omegaconf import OmegaConf

from diffusion_train.diffusion.process import Prediction
from diffusion_train.diffusion.schedule.edm import EDM
from diffusion_train.diffusion.schedule.linear import Linear
from diffusion_train.diffusion.schedule.rectified_flow import RectifiedFlow
from diffusion_train.guidance.base import Guidance
from diffusion_train.guidance.classifier_free import ClassifierFree
from diffusion_train.guidance.none import NoGuidance
from diffusion_train.utils.tensor import expand

SCHEDULES = {"linear": Linear(), "ztsnr": Linear(zero_terminal_snr=True), "flow": RectifiedFlow(), "edm": EDM()}
CONF = Path(__file__).parents[2] / "conf" / "guidance"
GENERATOR = torch.Generator().manual_seed(0)
XT = torch.randn(3, 2, 4, 4, generator=GENERATOR)
T = torch.tensor([1.0, 0.6, 0.2])
COND = {"text": torch.randn(3, 5, generator=GENERATOR), "label": torch.tensor([1, 2, 3])}
NULL = {"text": torch.zeros(3, 5), "label": torch.zeros(3, dtype=torch.int64)}


@pytest.fixture(params=SCHEDULES)
def schedule(request):
    return SCHEDULES[request.param]


class Predictor:
    """A consistent prediction that depends on the conditions, row by row; counts forward passes and rows."""

    def __init__(self, schedule):
        self.schedule = schedule
        self.batches = []

    def __call__(self, xt, t, *, text, label):
        self.batches.append(len(xt))
        alpha, sigma = (expand(v, xt) for v in self.schedule.alpha_sigma(t))
        x0 = (0.5 * xt + 0.3 * expand(text.sum(1), xt)).tanh() * (1 + 0.2 * expand(label, xt))
        return Prediction(x0=x0, noise=(xt - alpha * x0) / sigma)


def equal(p, q):
    return torch.equal(p.x0, q.x0) and torch.equal(p.noise, q.noise)


GUIDANCES = {
    "none": NoGuidance(),
    "scale_1": ClassifierFree(1.0),
    "scale_1_rescaled": ClassifierFree(1.0, rescale=0.7),
    "outside": ClassifierFree(4.0, interval=(0.3, 0.5)),
}


@pytest.mark.parametrize("guidance", GUIDANCES.values(), ids=GUIDANCES.keys())
def test_off_is_one_plain_forward_pass(guidance, schedule):
    predict = Predictor(schedule)
    p = guidance(predict, schedule, COND, NULL)(XT, T)
    assert predict.batches == [3]
    assert equal(p, predict(XT, T, **COND))


@pytest.mark.parametrize("scale", [0.0, 0.5, 3.0])
def test_scale_walks_from_null_to_cond(scale, schedule):
    predict = Predictor(schedule)
    p = ClassifierFree(scale)(predict, schedule, COND, NULL)(XT, T)
    assert predict.batches == [6]
    cond, null = predict(XT, T, **COND), predict(XT, T, **NULL)
    torch.testing.assert_close(p.x0, null.x0 + scale * (cond.x0 - null.x0))
    torch.testing.assert_close(p.noise, null.noise + scale * (cond.noise - null.noise))


@pytest.mark.parametrize(("rescale", "of"), [(0.0, "v"), (0.7, "v"), (1.0, "v"), (0.7, "noise")])
def test_guided_prediction_is_consistent(rescale, of, schedule):
    if of == "noise" and schedule.zero_terminal_snr:
        pytest.skip("refused, see below")
    p = ClassifierFree(5.0, rescale=rescale, rescale_of=of)(Predictor(schedule), schedule, COND, NULL)(XT, T)
    alpha, sigma = (expand(v, XT) for v in schedule.alpha_sigma(T))
    torch.testing.assert_close(alpha * p.x0 + sigma * p.noise, XT, rtol=0, atol=2e-5)


def test_interval_guides_inside_alone(schedule):
    """Rows at 1.0, 0.6 and 0.2, both ends of the interval included."""
    predict = Predictor(schedule)
    p = ClassifierFree(4.0, interval=(0.6, 1.0))(predict, schedule, COND, NULL)(XT, T)
    guided = ClassifierFree(4.0)(predict, schedule, COND, NULL)(XT, T)
    cond = predict(XT, T, **COND)
    for name in ("x0", "noise"):
        got, inside, outside = (getattr(prediction, name) for prediction in (p, guided, cond))
        assert torch.equal(got[:2], inside[:2])
        torch.testing.assert_close(got[2], outside[2])  # of six rows and of three: sums may round differently
        assert not torch.equal(inside[2], outside[2])


def test_no_condition_is_one_forward_pass():
    batches = []

    def predict(xt, t):
        batches.append(len(xt))
        return Prediction(x0=xt, noise=xt)

    ClassifierFree(4.0)(predict, Linear(), {}, {})(XT, T)
    assert batches == [3]


def v_of(p, schedule):
    alpha, sigma = (expand(v, XT) for v in schedule.alpha_sigma(T))
    return alpha * p.noise - sigma * p.x0


def test_full_rescale_gives_the_conditional_deviation(schedule):
    predict = Predictor(schedule)
    p = ClassifierFree(6.0, rescale=1.0)(predict, schedule, COND, NULL)(XT, T)
    plain = ClassifierFree(6.0)(predict, schedule, COND, NULL)(XT, T)
    cond_std = v_of(predict(XT, T, **COND), schedule).flatten(1).std(1)
    torch.testing.assert_close(v_of(p, schedule).flatten(1).std(1), cond_std, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(v_of(plain, schedule).flatten(1).std(1), cond_std, rtol=0.05)


@pytest.mark.parametrize("schedule", ["linear", "ztsnr"], indirect=True)
def test_rescale_is_diffusers_rescale_of_v(schedule):
    predict = Predictor(schedule)
    p = ClassifierFree(6.0, rescale=0.7)(predict, schedule, COND, NULL)(XT, T)
    plain = ClassifierFree(6.0)(predict, schedule, COND, NULL)(XT, T)
    expected = rescale_noise_cfg(v_of(plain, schedule), v_of(predict(XT, T, **COND), schedule), guidance_rescale=0.7)
    torch.testing.assert_close(v_of(p, schedule), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("schedule", ["linear"], indirect=True)
def test_rescale_of_the_noise_is_diffusers_for_epsilon(schedule):
    predict = Predictor(schedule)
    guided = [
        ClassifierFree(6.0, rescale=rescale, rescale_of=of)(predict, schedule, COND, NULL)(XT, T).noise
        for rescale, of in ((0.7, "noise"), (0.0, "noise"), (0.7, "v"))
    ]
    expected = rescale_noise_cfg(guided[1], predict(XT, T, **COND).noise, guidance_rescale=0.7)
    torch.testing.assert_close(guided[0], expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(guided[2], expected, atol=1e-2)


def test_the_noise_is_not_rescaled_where_it_does_not_determine_the_data():
    guidance = ClassifierFree(6.0, rescale=0.7, rescale_of="noise")
    with pytest.raises(ValueError, match="rescale_of=noise: cannot be used"):
        guidance(Predictor(SCHEDULES["ztsnr"]), SCHEDULES["ztsnr"], COND, NULL)


@pytest.mark.parametrize("shape", [(1,), (2, 4, 4)], ids=["one number", "an image"])
def test_rescale_leaves_a_constant_alone(shape, schedule):
    """A row without contrast, or of one number, has no standard deviation to divide by."""
    xt = torch.full((3, *shape), 0.7)
    plain, rescaled = (
        ClassifierFree(6.0, rescale=rescale)(Predictor(schedule), schedule, COND, NULL)(xt, T) for rescale in (0.0, 0.7)
    )
    torch.testing.assert_close(rescaled.x0, plain.x0)
    torch.testing.assert_close(rescaled.noise, plain.noise, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"interval": (0.6, 0.2)}, "interval"),
        ({"interval": (0.0, 1.5)}, "interval"),
        ({"rescale": 1.2}, "rescale=1.2"),
        ({"rescale_of": "x0"}, "rescale_of=x0"),
    ],
    ids=["falling", "outside", "rescale", "rescale_of"],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ClassifierFree(3.0, **settings)


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.stem)
def test_yaml_builds_guidance(path):
    assert isinstance(hydra.utils.instantiate(OmegaConf.load(path)), Guidance)
