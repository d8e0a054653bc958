"""`sample.py` on the command line draws what diffusers' pipeline draws,
with a scheduler made from the base's own file.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_pipelines
import torch
from torch import Tensor

from diffusion_train import config
from diffusion_train.assembly import build_conditioner, build_network
from diffusion_train.command import sample
from diffusion_train.command.cli import launch
from diffusion_train.config.command_line.compose import Composer
from diffusion_train.config.folders import conf_folder
from diffusion_train.training.weights import save_weights, trainable_modules, trainable_state
from diffusion_train.utils.rng import Rng

pytestmark = pytest.mark.slow
diffusers = pytest.importorskip("diffusers")
PROMPTS, SEED, NUM_STEPS = ["a red apple", "photo of a cat"], 3, 7  # 7 steps of Euler's method fall between levels
KARRAS = (["sampler/grid=karras"], {"use_karras_sigmas": True})
CASES: dict[str, tuple[str, str, tuple[list[str], dict[str, Any]]]] = {
    "ddim": ("ddim", "DDIMScheduler", ([], {})),
    "dpm_solver": ("dpm_solver", "DPMSolverMultistepScheduler", ([], {})),
    "dpm_solver_karras": ("dpm_solver", "DPMSolverMultistepScheduler", KARRAS),
    "unipc": ("unipc", "UniPCMultistepScheduler", ([], {})),
    "euler": ("euler", "EulerDiscreteScheduler", ([], {})),
}


@pytest.fixture(scope="module", params=["sd15", "sd2_v", "sd2_zero_snr"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA before its first step, which changes nothing, on a base that predicts epsilon (its file says PNDM) or v.

    The file of the last one says zero terminal SNR and trailing steps, which 7 steps do not divide.
    """
    folder = tmp_path_factory.mktemp(request.param)
    base = tiny_pipelines.make(request.param, folder / "base")
    given = ["experiment=sd15_lora", f"pretrained={base}", "data.shards=[x.tar]", "logger=none"]
    cfg, mistakes = Composer("config", [conf_folder()]).config([*given, f"run_dir={folder / 'run'}"])
    assert not mistakes
    del cfg.hydra
    config.resolve_files(cfg)
    model = trainable_modules(build_network(cfg), build_conditioner(cfg))
    facts = {"config": config.redact(cfg), "step": 0, "shape": [3, 64, 64]}
    save_weights(folder / "run" / "weights.safetensors", trainable_state(model), facts)
    return folder / "run"


@pytest.fixture
def drawn(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Tensor]:
    """Arguments -> the samples in [0, 1] before they are rounded to the 256 values of a PNG."""

    def draw(*arguments: str) -> Tensor:
        samples: list[Tensor] = []
        monkeypatch.setattr(sample, "write", lambda x, *_: samples.append(x))
        ask = [f"run={run}", f"prompts={json.dumps(PROMPTS)}", f"seed={SEED}", f"out={tmp_path / 'out'}"]
        assert launch("sample", [*ask, "guidance.scale=7.5", *arguments]) == 0
        return (samples[0] / 2 + 0.5).clamp(0, 1)

    return draw


@pytest.mark.parametrize("case", CASES)
def test_images_are_those_of_diffusers(case: str, run: Path, drawn: Callable[..., Tensor]) -> None:
    if case.endswith("karras") and "zero_snr" in run.parent.name:
        pytest.skip("refused: the first sigma / alpha is infinite")
    sampler, kind, (arguments, settings) = CASES[case]
    ours = drawn(f"sampler={sampler}", f"sampler.num_steps={NUM_STEPS}", *arguments)
    base = run.parent / "base"
    own = json.loads((base / "scheduler" / "scheduler_config.json").read_text())
    pipeline = diffusers.DiffusionPipeline.from_pretrained(
        base, local_files_only=True, scheduler=getattr(diffusers, kind).from_config(own, **settings)
    )
    pipeline.set_progress_bar_config(disable=True)
    noise = Rng.for_samples([SEED] * len(PROMPTS)).normal("noise", (4, 8, 8))
    size = {"height": 64, "width": 64, "output_type": "pt"}
    theirs = pipeline(PROMPTS, latents=noise, num_inference_steps=NUM_STEPS, guidance_scale=7.5, **size).images
    # at sigma / alpha = 4096, Euler's method of diffusers rounds the image in float32; in float64 it is within 1e-5
    rounding = 4e-5 if case == "euler" and "zero_snr" in run.parent.name else 1e-5
    torch.testing.assert_close(ours, theirs, rtol=0, atol=rounding)


def test_naming_the_runs_own_sampler_changes_nothing(drawn: Callable[..., Tensor]) -> None:
    steps = "sampler.num_steps=2"
    assert torch.equal(drawn("sampler=ddim", steps), drawn(steps))
