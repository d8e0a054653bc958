"""conf/diffusion: every preset and every member composes, resolves and builds."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from diffusion_train.diffusion.process import GaussianDiffusion

CONF = Path(__file__).parents[2] / "conf"
GROUPS = ["schedule", "parameterization", "weighting", "time_sampler"]
PRESETS = sorted(file.stem for file in (CONF / "diffusion").glob("*.yaml"))
MEMBERS = [(group, file.stem) for group in GROUPS for file in sorted((CONF / "diffusion" / group).glob("*.yaml"))]


def build(preset: str, *overrides: str) -> GaussianDiffusion:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        process = instantiate(compose(f"diffusion/{preset}", list(overrides)).diffusion)
    assert isinstance(process, GaussianDiffusion)
    return process


def names(process: GaussianDiffusion) -> list[str]:
    return [type(getattr(process, group)).__name__ for group in GROUPS]


@pytest.mark.parametrize(
    ("preset", "parts"),
    [
        ("ddpm", ["Linear", "Epsilon", "Noise", "Discrete"]),
        ("flow", ["RectifiedFlow", "Flow", "Output", "LogitNormal"]),
        ("x0_flow", ["RectifiedFlow", "X0", "Velocity", "LogitNormal"]),
        ("v_cosine", ["Cosine", "V", "Output", "Uniform"]),
        ("edm", ["EDM", "EDMPrediction", "EDMWeight", "LogNormal"]),
    ],
)
def test_preset_is_what_its_name_says(preset: str, parts: list[str]) -> None:
    assert names(build(preset)) == parts


def test_every_preset_is_tested() -> None:
    assert PRESETS == ["ddpm", "edm", "flow", "v_cosine", "x0_flow"]


@pytest.mark.parametrize(("group", "name"), MEMBERS, ids=lambda value: value)
def test_every_member_builds(group: str, name: str) -> None:
    follows_edm = name == "edm" or name == "log_normal"
    process = build("edm" if follows_edm else "v_cosine", f"diffusion/{group}={name}")
    assert type(getattr(process, group)).__name__.lower().startswith(name.replace("_", "")[:3])


def test_members_follow_the_numbers_of_the_schedule() -> None:
    assert build("ddpm", "diffusion.schedule.num_steps=50").time_sampler.num_steps == 50  # type: ignore[attr-defined]
    edm = build("edm", "diffusion.schedule.sigma_data=1.5")
    assert edm.parameterization.sigma_data == edm.weighting.sigma_data == 1.5  # type: ignore[attr-defined]


def test_stratified_wraps_any_other_sampler() -> None:
    process = build(
        "ddpm",
        "diffusion/time_sampler=stratified",
        "diffusion/time_sampler@diffusion.time_sampler.time_sampler=logit_normal",
    )
    assert type(process.time_sampler.time_sampler).__name__ == "LogitNormal"  # type: ignore[attr-defined]


def test_an_illegal_pair_is_refused() -> None:
    with pytest.raises(Exception, match="Epsilon cannot be used with schedule Linear, which has zero terminal SNR"):
        build("ddpm", "diffusion.schedule.zero_terminal_snr=true")
