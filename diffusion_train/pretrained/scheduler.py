"""Converts the JSON file of a diffusers scheduler to a noise schedule, a parameterization and a sampler's grid."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diffusion_train.pretrained.config_keys.base import NOT_ORDINARY, refuse
from diffusion_train.pretrained.config_keys.scheduler_keys import CLASSES, DISTILLED, KEYS, SAMPLING
from diffusion_train.pretrained.diffusers_folder import read_json

Nodes = dict[str, Any]

PREDICTIONS = {"epsilon": "Epsilon", "v": "V", "x0": "X0"}
_OURS = {"epsilon": "epsilon", "v_prediction": "v", "sample": "x0"}
_SCHEDULES = {"linear": "linear.Linear", "scaled_linear": "scaled_linear.ScaledLinear"}
_GRID = "diffusion_train.sampler.grid"
_SPACINGS = {"trailing": "Trailing", "leading": "Leading", "linspace": "Linspace"}
_IN_SIGMAS = {"use_karras_sigmas": 7.0, "use_exponential_sigmas": None, "use_lu_lambdas": None}  # rho of Karras


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
        "sampler.grid": _grids(settings, source),
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
        yield f"clip_sample=True: latents are not limited to [-1, 1]; set it to false: {SAMPLING}"
    spacings = [key for key in _IN_SIGMAS if settings.get(key)]
    if len(spacings) > 1:
        yield f"{'=true, '.join(spacings)}=true: only one of them can be true; set the others to false"
    if spacings and settings.get("rescale_betas_zero_snr"):
        yield (
            f"{spacings[0]}=True: with zero terminal SNR the first sigma / alpha is infinite; "
            f"set it to false: {SAMPLING}"
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


def _grids(settings: Nodes, source: str) -> Nodes:
    """Return the grids of the schedulers that diffusers makes from these settings, by `from_config`.

    A setting that the file lacks has the default of the scheduler that is made, not of the one that the file names.
    """
    return {
        "_target_": f"{_GRID}.BySampler",
        "single_step": _ddim_grid(settings, source),
        "multistep": _multistep_grid(settings, source),
        "euler": _euler_grid(settings, source),
    }


def _ddim_grid(settings: Nodes, source: str) -> Nodes:
    end_at_level = not settings.get("set_alpha_to_one", True)
    grid = _levels(settings, source, "leading", unit_start=True)
    return grid | {"end_at_level": end_at_level, "fixed_stride": True}


def _multistep_grid(settings: Nodes, source: str) -> Nodes:
    grid = _levels(settings, source, "linspace", unit_start=True) | _terminal(settings)
    if not grid["_target_"].endswith(".Trailing"):
        grid["skip_last"] = True
    return _in_sigmas(grid, settings)


def _euler_grid(settings: Nodes, source: str) -> Nodes:
    """Return the grid of Euler's method, which starts at sigma / alpha times the noise,
    unless its steps are leading.
    """
    grid = _levels(settings, source, "linspace", unit_start=False) | _terminal(settings)
    if grid["_target_"].endswith(".Leading"):
        grid["unit_start"] = True
    if grid["_target_"].endswith(".Linspace"):
        grid["whole"] = False
    return _in_sigmas(grid, {**settings, "use_lu_lambdas": False})  # which Euler's method does not read


def _levels(settings: Nodes, source: str, default: str, unit_start: bool) -> Nodes:
    spacing = settings.get("timestep_spacing") or default
    if spacing not in _SPACINGS:
        raise ValueError(
            f"pretrained={source}: timestep_spacing={spacing} in scheduler_config.json is not supported; set it to one "
            f"of {', '.join(_SPACINGS)}: {SAMPLING}"
        )
    return {
        "_target_": f"{_GRID}.{_SPACINGS[spacing]}",
        "num_levels": settings.get("num_train_timesteps", 1000),
        "unit_start": unit_start,
        **({"offset": settings.get("steps_offset", 0)} if spacing == "leading" else {}),
    }


def _terminal(settings: Nodes) -> Nodes:
    """Return the setting of a grid by which diffusers avoids an infinite sigma / alpha, which DDIM does not need."""
    return {"finite": True} if settings.get("rescale_betas_zero_snr") else {}


def _in_sigmas(grid: Nodes, settings: Nodes) -> Nodes:
    """Return the grid with equal steps in a function of sigma / alpha, if the settings ask for it."""
    key = next((key for key in _IN_SIGMAS if settings.get(key)), None)
    return grid if key is None else {"_target_": f"{_GRID}.Karras", "rho": _IN_SIGMAS[key], "model": grid}
