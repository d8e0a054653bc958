"""Converts the JSON file of a diffusers scheduler to a noise schedule, a parameterization and a sampler's grid."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diffusion_train.pretrained.config_keys.base import NOT_ORDINARY, refuse
from diffusion_train.pretrained.config_keys.scheduler_keys import CLASSES, DISTILLED, KEYS
from diffusion_train.pretrained.diffusers_folder import read_json

Nodes = dict[str, Any]

PREDICTIONS = {"epsilon": "Epsilon", "v": "V", "x0": "X0"}
_OURS = {"epsilon": "epsilon", "v_prediction": "v", "sample": "x0"}
_SCHEDULES = {"linear": "linear.Linear", "scaled_linear": "scaled_linear.ScaledLinear"}
_IN_SIGMAS = {"use_karras_sigmas": 7.0, "use_exponential_sigmas": None, "use_lu_lambdas": None}  # rho of Karras
_SAMPLING = "it changes sampling, not training"
_GRIDS = {"trailing": "Trailing", "leading": "Leading", "linspace": "Linspace"}


def nodes(
    file: Path, source: str, prediction: str | None = None, name: str | None = None, kind: str | None = None
) -> Nodes:
    """Return the config nodes diffusion.schedule, diffusion.parameterization and sampler.grid.

    `name` is the scheduler's class if a pipeline's index states it, and `kind` the pipeline's kind, "sd" or "sdxl".
    Raises ValueError if the scheduler or one of its settings is not supported, or if `prediction` is given and is not
    the model's.
    """
    refuse(problems(file, source, name, kind), f"pretrained={source}")
    settings, name = _settings(file, source, name, kind)
    settings = {"beta_start": CLASSES[name].beta_start, "beta_end": CLASSES[name].beta_end, **settings}
    return {
        "diffusion.schedule": _schedule(settings, source),
        "diffusion.parameterization": _parameterization(settings, source, prediction),
        "sampler.grid": _grids(name, settings, source),
    }


def problems(file: Path, source: str, name: str | None = None, kind: str | None = None) -> Iterator[str]:
    """Yield what is wrong with the class and each key of a scheduler; `name` and `kind` are as for `nodes`."""
    settings, name = _settings(file, source, name, kind)
    stated = str(settings.get("_class_name", name))
    found = list(filter(None, map(_wrong_class, dict.fromkeys([name, stated]))))
    yield from (f"{file.name}: {problem}" for problem in found or _wrong_keys(name, settings, kind))


def _settings(file: Path, source: str, name: str | None, kind: str | None) -> tuple[Nodes, str]:
    """Return the settings and the class of a scheduler."""
    settings = read_json(file, source)
    if kind == "sd":  # as diffusers does, which corrects outdated files
        settings |= {"steps_offset": 1, "clip_sample": False}
    return settings, name or str(settings.get("_class_name"))


def _wrong_class(name: str) -> str | None:
    if name in DISTILLED:
        return f"{name}: the model is distilled for few steps; {NOT_ORDINARY}"
    if name.startswith(("FlowMatch", "EDM")):
        return f"{name}: flow matching and EDM models are not supported yet; give a diffusion model"
    if name not in CLASSES:
        return (
            f"{name} is not supported; if the model was trained with one of these, name it in model_index.json and "
            f"scheduler_config.json: {', '.join(CLASSES)}"
        )
    return None


def _wrong_keys(name: str, settings: Nodes, kind: str | None) -> Iterator[str]:
    yield from KEYS.problems(settings)
    if kind is not None and settings.get("clip_sample", CLASSES[name].clip_sample):
        yield f"clip_sample=True: latents are not limited to [-1, 1]; set it to false: {_SAMPLING}"
    spacings = [key for key in _IN_SIGMAS if settings.get(key)]
    if len(spacings) > 1:
        yield f"{'=true, '.join(spacings)}=true: only one of them can be true; set the others to false"
    if spacings and settings.get("rescale_betas_zero_snr"):
        yield (
            f"{spacings[0]}=True: with zero terminal SNR the first sigma / alpha is infinite; set it to false: {_SAMPLING}"
        )


def _schedule(settings: Nodes, source: str) -> Nodes:
    betas = str(settings.get("beta_schedule", "linear"))
    if betas not in _SCHEDULES:
        raise ValueError(
            f"pretrained={source}: beta_schedule={betas} in scheduler_config.json is not supported; beta_schedule must "
            f"be one of {', '.join(_SCHEDULES)}"
        )
    start, end = settings["beta_start"], settings["beta_end"]
    num_steps, zero = settings.get("num_train_timesteps", 1000), bool(settings.get("rescale_betas_zero_snr", False))
    if not (isinstance(num_steps, int) and num_steps >= 2 and 0 < start <= end < 1):
        raise ValueError(
            f"pretrained={source}: num_train_timesteps={num_steps}, beta_start={start}, beta_end={end} in "
            "scheduler_config.json; give at least 2 steps, and betas between 0 and 1"
        )
    return {
        "_target_": f"diffusion_train.diffusion.schedule.{_SCHEDULES[betas]}",
        "num_steps": num_steps,
        "beta_start": start,
        "beta_end": end,
        "zero_terminal_snr": zero,
    }


def _parameterization(settings: Nodes, source: str, prediction: str | None) -> Nodes:
    prediction_type = str(settings.get("prediction_type", "epsilon"))
    if prediction_type not in _OURS:
        known = ", ".join(_OURS)
        raise ValueError(
            f"pretrained={source}: prediction_type={prediction_type} in scheduler_config.json must be one of {known}"
        )
    ours = _OURS[prediction_type]
    if prediction not in (None, ours):
        raise ValueError(
            f"base.prediction={prediction}, but scheduler_config.json of pretrained={source} states {ours}; leave "
            "base.prediction out"
        )
    if ours == "epsilon" and settings.get("rescale_betas_zero_snr"):
        raise ValueError(
            f"pretrained={source}: scheduler_config.json has zero terminal SNR, with which epsilon is undefined; "
            "correct prediction_type or rescale_betas_zero_snr"
        )
    return {"_target_": f"diffusion_train.diffusion.parameterization.{PREDICTIONS[ours]}"}


def _grids(name: str, settings: Nodes, source: str) -> Nodes:
    """Return the grids of the model's own scheduler and of the one that diffusers makes from its settings.

    That is a multistep solver for a scheduler that is none, and DDIM for one that is.
    """
    is_multistep = CLASSES[name].multistep
    return {
        "_target_": "diffusion_train.sampler.grid.BySampler",
        "single_step": _grid("DDIMScheduler" if is_multistep else name, settings, source),
        "multistep": _grid(name if is_multistep else "DPMSolverMultistepScheduler", settings, source),
    }


def _grid(name: str, settings: Nodes, source: str) -> Nodes:
    spacing = settings.get("timestep_spacing") or CLASSES[name].spacing
    if spacing not in _GRIDS:
        raise ValueError(
            f"pretrained={source}: timestep_spacing={spacing} in scheduler_config.json must be one of "
            f"{', '.join(_GRIDS)}; {_SAMPLING}"
        )
    by_sigma = next((key for key in _IN_SIGMAS if settings.get(key)), None)
    if by_sigma and CLASSES[name].reads_sigmas:
        levels = _whole_range(settings) if CLASSES[name].multistep else _levels(name, spacing, settings)
        return {"_target_": "diffusion_train.sampler.grid.Karras", "rho": _IN_SIGMAS[by_sigma], "levels": levels}
    return _levels(name, spacing, settings)


def _levels(name: str, spacing: str, settings: Nodes) -> Nodes:
    return {
        "_target_": f"diffusion_train.sampler.grid.{_GRIDS[spacing]}",
        "num_levels": settings.get("num_train_timesteps", 1000),
        "unit_start": spacing == "leading" or not CLASSES[name].in_sigmas,
        "end_at_level": _ends_at_level(name, settings),
        **({"offset": settings.get("steps_offset", 0)} if spacing == "leading" else {}),
        **({"skip_last": CLASSES[name].multistep} if spacing != "trailing" else {}),
    }


def _whole_range(settings: Nodes) -> Nodes:
    """Return the grid from the noisiest to the least noisy level, of which a multistep solver takes the two ends."""
    num_levels = settings.get("num_train_timesteps", 1000)
    return {"_target_": "diffusion_train.sampler.grid.Linspace", "num_levels": num_levels, "unit_start": True}


def _ends_at_level(name: str, settings: Nodes) -> bool:
    """Return whether sampling ends at the least noisy level instead of at data; only DDIM and PNDM read the setting."""
    if name.startswith("PNDM"):
        return not settings.get("set_alpha_to_one", False)
    return name.startswith("DDIM") and not settings.get("set_alpha_to_one", True)
