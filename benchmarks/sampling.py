"""Images/s of sampling, beside diffusers' pipeline with the same network, sampler, steps and batch.

    python benchmarks/sampling.py [--sampler ddim dpm_solver] [--channels 64 128 256]

The network is a UNet2DModel with random weights. Ours is the Pipeline that sample.py uses. Diffusers' is the
DDIMPipeline, or for DPM-Solver++ the DDPMPipeline with that scheduler. First, both turn the same noise into images,
which must be equal up to rounding. Then both sides alternate in one process, and the order changes from round to round.
Images are timed from their noise to numbers on the CPU. Neither side writes a file.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any
from unittest.mock import patch

import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DPMSolverMultistepScheduler, UNet2DModel
from meter import machine, pairs, spread
from step import SIDE, model
from torch import Tensor

from diffusion_train.diffusion.parameterization import Epsilon
from diffusion_train.diffusion.process import GaussianDiffusion
from diffusion_train.diffusion.schedule.linear import Linear
from diffusion_train.diffusion.time_sampler import Discrete
from diffusion_train.diffusion.weighting import Noise
from diffusion_train.network.diffusers_unet import DiffusersUNet
from diffusion_train.pipeline import Pipeline
from diffusion_train.sampler.ddim import DDIM
from diffusion_train.sampler.dpm_solver import DPMSolver
from diffusion_train.sampler.grid import Trailing
from diffusion_train.utils.rng import Rng
from diffusion_train.utils.tensor import best_device

SHAPE = (3, SIDE, SIDE)
BETAS = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02, "timestep_spacing": "trailing"}
SAMPLERS: dict[str, tuple[type, Callable[[UNet2DModel], Any]]] = {
    "ddim": (DDIM, lambda unet: DDIMPipeline(unet, DDIMScheduler(**BETAS, clip_sample=False))),
    "dpm_solver": (
        DPMSolver,
        lambda unet: DDPMPipeline(unet, DPMSolverMultistepScheduler(**BETAS, final_sigmas_type="zero")),
    ),
}
TOLERANCE = 1e-3  # of the largest pixel: a random network makes them large


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sampler", nargs="*", default=[*SAMPLERS], choices=[*SAMPLERS])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=20, help="of the sampler")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--channels", type=int, nargs="+", default=[64, 128, 256], help="block_out_channels")
    asked = parser.parse_args(arguments)
    print(machine())
    torch.manual_seed(0)
    config = {"sample_size": SIDE, "in_channels": 3, "out_channels": 3, **model(asked.channels)}
    unet = UNet2DModel.from_config(config).to(best_device()).eval()
    for name in asked.sampler:
        measure(name, unet, asked)


def measure(name: str, unet: UNet2DModel, asked: argparse.Namespace) -> None:
    """Print a table of the rounds. Raises SystemExit if the images differ."""
    sampler, pipeline_of = SAMPLERS[name]
    diffusion = GaussianDiffusion(Linear(), Epsilon(), Noise(), Discrete())
    ours = Pipeline(DiffusersUNet(unet), diffusion, sampler(asked.steps, Trailing(unit_start=True)), SHAPE)
    theirs = pipeline_of(unet)
    theirs.set_progress_bar_config(disable=True)
    difference = compare(ours, theirs, asked)
    print(
        f"\n{name}, {asked.steps} steps, batch of {asked.batch_size}: images differ by {difference:.1e} of the largest"
    )
    if difference > TOLERANCE:
        sys.exit(f"{name}: both sides must give the same images up to {TOLERANCE:g}")
    print(f"| {name} | ours, images/s | diffusers, images/s | ratio |\n|---|---|---|---|", flush=True)
    ratios = []
    seeds = range(asked.batch_size)
    sides = (
        lambda: images_per_second(lambda: ours.sample(seeds, batch_size=asked.batch_size)),
        lambda: images_per_second(lambda: their_images(theirs, asked)),
    )
    for number, (mine, peers) in enumerate(pairs(*sides, asked.rounds), 1):
        ratios.append(mine / peers)
        print(f"| round {number} | {mine:.2f} | {peers:.2f} | {ratios[-1]:.2f} |", flush=True)
    print(f"{name}: {spread(ratios)} times the images/s of diffusers, median and range of {asked.rounds} rounds")


def images_per_second(sample: Callable[[], Any]) -> float:
    start = time.perf_counter()
    images = sample()
    return len(images) / (time.perf_counter() - start)


def their_images(pipeline: Any, asked: argparse.Namespace) -> Any:
    """Return an array (B, height, width, 3)."""
    options = {"batch_size": asked.batch_size, "num_inference_steps": asked.steps, "output_type": "np"}
    return pipeline(**options).images


def compare(ours: Pipeline, theirs: Any, asked: argparse.Namespace) -> float:
    """Return the largest difference for the same noise, over the largest pixel. Theirs are taken before clamping."""
    seeds, device = range(asked.batch_size), next(ours.network.parameters()).device
    noise = Rng.for_samples(seeds).normal("noise", SHAPE, device)
    mine = ours.sample(seeds, batch_size=asked.batch_size)
    last: list[Tensor] = []
    step = theirs.scheduler.step

    def recorded(*args: Any, **kwargs: Any) -> Any:
        result = step(*args, **kwargs)
        last[:] = [result.prev_sample]
        return result

    where = f"{type(theirs).__module__}.randn_tensor"
    with patch(where, lambda *_, **__: noise), patch.object(theirs.scheduler, "step", recorded):
        their_images(theirs, asked)
    return float((mine - last[0].float().cpu()).abs().max() / mine.abs().max())


if __name__ == "__main__":
    main()
