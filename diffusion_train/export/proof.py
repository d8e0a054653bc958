"""Verifies that an export gives the same results in diffusers: one prediction and one image, in a separate process."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffusion_train.export.exported_model import Model
from diffusion_train.guidance.classifier_free import ClassifierFree
from diffusion_train.sampler.ddim import DDIM
from diffusion_train.sampler.grid import Trailing
from diffusion_train.utils.rng import Rng


class Unproved(RuntimeError):
    """The export gives other results in diffusers, or does not load."""


@dataclass(frozen=True)
class Question:
    """What both sides compute: an image of `prompt` in `num_steps` steps of DDIM, from the noise of `seed`."""

    prompt: str
    seed: int
    num_steps: int
    guidance: float


@dataclass(frozen=True)
class Proof:
    """The largest absolute differences of the prediction and of the image, whose channels are in [0, 1]."""

    prediction: float
    image: float
    picture: Tensor  # (3, H, W) in [-1, 1], ours

    @property
    def largest(self) -> float:
        return max(self.prediction, self.image)


@torch.no_grad()
def ours(model: Model, ask: Question) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the inputs for diffusers, and our outputs. Call it before adapters are merged.

    Raises ValueError unless the steps divide the noise levels, because diffusers' DDIM otherwise steps unevenly.
    """
    pipeline = model.pipeline
    schedule: Any = pipeline.diffusion.schedule
    if ask.num_steps < 1 or schedule.num_steps % ask.num_steps:
        raise ValueError(f"proof.num_steps={ask.num_steps}: must divide the model's {schedule.num_steps} noise levels")
    device = next(pipeline.network.parameters()).device
    shape = pipeline.autoencoder.latent_shape(pipeline.shape)
    rng = Rng.for_samples([ask.seed])
    batch = {"caption": [ask.prompt], "target_size": torch.tensor([pipeline.shape[-2:]])}
    cond = {name: value.float() for name, value in pipeline.conditioner(batch).items() if name != "text_mask"}
    first = torch.ones(1)
    start = schedule.alpha_sigma(first)[1].to(device) * rng.normal("noise", shape, device)
    inputs = {
        "x": rng.normal("x", shape, device),
        "label": schedule.label(first / 2).to(device),
        "noise": start,
        **cond,
    }
    with exact():
        drawing = replace(
            pipeline,
            sampler=DDIM(ask.num_steps, Trailing(schedule.num_steps)),
            guidance=ClassifierFree(ask.guidance),
        )
        prediction = pipeline.network(inputs["x"], inputs["label"], **cond)
        image = drawing.sample([ask.seed], batch)
    return inputs, {"prediction": prediction.float().cpu(), "image": image}


def prove(
    model: Model,
    form: str,
    file: Path,
    ask: Question,
    inputs: dict[str, Tensor],
    outputs: dict[str, Tensor],
    scratch: Path,
) -> Proof:
    """Compare our outputs with those of diffusers for the export `file` of format `form`.

    Files are exchanged in the folder `scratch`. Raises Unproved if diffusers cannot load the export.
    """
    base_unet = scratch / "unet" if (scratch / "unet").is_dir() else None
    case = {
        "format": form,
        "file": str(file.absolute()),
        "base": str(model.base.absolute()),
        "unet": str(base_unet.absolute()) if base_unet else None,
        "device": str(inputs["x"].device),
        "prompt": ask.prompt,
        "num_steps": ask.num_steps,
        "guidance": ask.guidance,
        "height": model.pipeline.shape[1],
        "width": model.pipeline.shape[2],
    }
    (scratch / "case.json").write_text(json.dumps(case), "utf-8")
    save_file({name: value.cpu().contiguous() for name, value in inputs.items()}, scratch / "inputs.safetensors")
    run_alone(scratch)
    theirs = load_file(scratch / "answer.safetensors")
    predictions = [difference(theirs[name], outputs["prediction"]) for name in theirs if name != "image"]
    image = difference(theirs["image"], (outputs["image"] / 2 + 0.5).clamp(0, 1))
    return Proof(max(predictions), image, outputs["image"][0])


def run_alone(case: Path) -> None:
    """Run the module `reload` in a new interpreter that cannot reach the hub. Raises Unproved if it fails."""
    package = str(Path(__file__).parents[2])
    path = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "diffusion_train.export.reload", str(case)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise Unproved(f"diffusers cannot load the export: {last}")


def difference(a: Tensor, b: Tensor) -> float:
    """Return the largest absolute difference; infinite if shapes differ or any difference is NaN."""
    if a.shape != b.shape:
        return float("inf")
    largest = (a.double() - b.double()).abs().max().item()
    return float("inf") if math.isnan(largest) else largest


@contextmanager
def exact() -> Iterator[None]:
    """Compute convolutions of CUDA in full float32 inside the block, without TF32."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
