"""How good a run's samples are: one for each of 512 training captions, by the run's own sampler and guidance.

    python benchmarks/quality.py runs/openmoji/<date_time> [another run ...]

KID-efflite0: distance of the samples to 1,024 training images (lower is better; the row "real images" is the floor).
Retrieval: share of samples whose nearest image among the captions' 512 is their caption's own (chance: 1 / 512).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion_train import config
from diffusion_train.assembly import load_pipeline
from diffusion_train.metric.extractor import EfficientNetLite0
from diffusion_train.metric.kid import KID
from diffusion_train.metric.retrieval import Retrieval
from diffusion_train.run_folder import weights_file
from diffusion_train.training.weights import load_weights
from diffusion_train.utils.tensor import best_device


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders")
    parser.add_argument("--num-samples", type=int, default=512, help="captions sampled, once each")
    parser.add_argument("--num-real", type=int, default=1024, help="training images that the distance is taken to")
    parser.add_argument("--seed", type=int, default=0, help="caption j is sampled with seed + j")
    asked = parser.parse_args(arguments)
    extractor = EfficientNetLite0().to(best_device())
    print(f"{'KID-' + extractor.name:>14} {'retrieval':>10} {'seconds':>8}  of")
    for run in asked.runs:
        measure(run, extractor, asked)


def measure(run: Path, extractor: EfficientNetLite0, asked: argparse.Namespace) -> None:
    """Prints a row for the run and one for the real images of its captions."""
    cfg = config.from_container(load_weights(weights_file(run))[1]["config"])
    captions, images = training_samples(cfg, asked.num_samples + asked.num_real)
    captions = captions[: asked.num_samples]
    real = extractor(images).cpu()

    began = time.monotonic()
    seeds = range(asked.seed, asked.seed + len(captions))
    samples = load_pipeline(run, device=best_device()).sample(seeds, {"caption": captions})
    seconds = time.monotonic() - began
    features = extractor(samples).cpu()
    own, rest, reference = real[: len(captions)], real[len(captions) :], real[-asked.num_real :]
    report(distance(features, reference), recognised(features, own), seconds, f"{run} ({len(captions)} samples)")
    if len(rest) > 1:
        report(distance(own, rest), recognised(own, own), 0.0, f"real images ({len(own)} against {len(rest)} others)")


def training_samples(cfg: Any, count: int) -> tuple[list[str], Tensor]:
    """Captions and images (N, C, H, W) of training, at most `count`, the same ones for every run on the same data."""
    data = config.build(cfg.data).datamodule()
    examples = data.examples(data.num_samples)
    order = torch.randperm(data.num_samples, generator=torch.Generator().manual_seed(0))[:count]
    return [examples["caption"][i] for i in order], examples["x"][order]


def distance(features: Tensor, real: Tensor) -> float:
    kid = KID()
    kid.update(features, real=False)
    kid.update(real, real=True)
    return float(kid.compute())


def recognised(features: Tensor, own: Tensor) -> float:
    retrieval = Retrieval()
    retrieval.update(features, own)
    return float(retrieval.compute())


def report(kid: float, retrieval: float, seconds: float, of: str) -> None:
    print(f"{kid:14.3f} {100 * retrieval:8.1f} % {seconds:8.0f}  {of}", flush=True)


if __name__ == "__main__":
    main()
