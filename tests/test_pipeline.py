from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from diffusion_train.conditioner.label import Label
from diffusion_train.conditioner.none import NoCondition
from diffusion_train.diffusion.parameterization import Flow
from diffusion_train.diffusion.process import GaussianDiffusion
from diffusion_train.diffusion.schedule.rectified_flow import RectifiedFlow
from diffusion_train.diffusion.time_sampler import Uniform as UniformTime
from diffusion_train.diffusion.weighting import Output
from diffusion_train.guidance.classifier_free import ClassifierFree
from diffusion_train.network.unet import UNet
from diffusion_train.pipeline import Pipeline, default_batch_size
from diffusion_train.sampler.ddim import DDIM
from diffusion_train.sampler.grid import Uniform

CAPTIONS = ["0", "1", "2", "0", "1"]


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    """A network that was never trained, but answers something for every input."""
    torch.manual_seed(0)
    network = UNet(3, channels=[8, 16], num_blocks=[1, 1], attention=[False, True], num_labels=3)
    for p in network.parameters():
        nn.init.normal_(p, std=0.1)
    process = GaussianDiffusion(RectifiedFlow(), Flow(), Output(), UniformTime())
    sampler, guidance = DDIM(4, Uniform(), eta=0.5), ClassifierFree(2.0)
    return Pipeline(network, process, sampler, (3, 8, 8), Label(3), guidance=guidance)


def test_a_row_depends_on_its_own_prompt_and_seed_alone(pipeline: Pipeline) -> None:
    together = pipeline.sample([7, 8, 9, 10, 11], {"caption": CAPTIONS})
    for row in range(5):
        alone = pipeline.sample([7 + row], {"caption": [CAPTIONS[row]]})
        assert (alone[0] - together[row]).abs().max() <= 2 / 255  # a step of 1/255 of the range [-1, 1]
    torch.testing.assert_close(
        pipeline.sample([7, 8, 9, 10, 11], {"caption": CAPTIONS}, batch_size=2), together, rtol=0, atol=2 / 255
    )


def test_twice_is_the_same_and_seed_and_prompt_matter(pipeline: Pipeline) -> None:
    first, again, seed, prompt = (
        pipeline.sample([number], {"caption": [caption]})
        for caption, number in [("0", 1), ("0", 1), ("0", 2), ("1", 1)]
    )
    assert torch.equal(first, again)
    assert (first - seed).abs().max() > 0.1
    assert (first - prompt).abs().max() > 1e-3


def test_sampling_leaves_the_network_in_training(pipeline: Pipeline) -> None:
    pipeline.network.train()
    pipeline.sample([0], {"caption": ["0"]})
    assert pipeline.network.training


def test_guidance_leads_away_from_a_negative_prompt(pipeline: Pipeline) -> None:
    batch, seeds = {"caption": ["0", "1"]}, [7, 8]
    plain, empty, other = (pipeline.sample(seeds, batch, negative_prompt=prompt) for prompt in (None, "", "2"))
    torch.testing.assert_close(empty, plain)
    assert (other - plain).abs().flatten(1).max(1).values.min() > 1e-3


def test_a_negative_prompt_that_nobody_reads_is_a_mistake(pipeline: Pipeline) -> None:
    deaf = dataclasses.replace(pipeline, conditioner=NoCondition())
    with pytest.raises(ValueError, match="negative_prompt=ugly: this run reads no captions"):
        deaf.sample([0], {"caption": ["0"]}, negative_prompt="ugly")


@pytest.mark.parametrize(
    ("shape", "rows"),
    [((3, 32, 32), 64), ((3, 512, 512), 4), ((3, 1024, 1024), 1), ((3, 2048, 2048), 1), ((2,), 64)],
    ids=str,
)
def test_a_megapixel_is_worked_on_at_once(shape: tuple[int, ...], rows: int) -> None:
    assert default_batch_size(shape) == rows
