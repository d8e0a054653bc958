"""Converts the JSON file of a diffusers scheduler to a noise schedule, a parameterization and a sampler's grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusion_train.pretrained.diffusers_folder import read_json

Nodes = dict[str, Any]

PREDICTIONS = {"epsilon": "Epsilon", "v": "V", "x0": "X0"}
_OURS = {"epsilon": "epsilon", "v_prediction": "v", "sample": "x0"}
_SCHEDULES = {"linear": "linear.Linear", "scaled_linear": "scaled_linear.ScaledLinear"}
_GRID = "diffusion_train.sampler.grid"
_SPACINGS = {"trailing": "Trailing", "leading": "Leading", "linspace": "Linspace"}


def nodes(file: Path, source: str, prediction: str | None = None) -> Nodes:
    """Return the config nodes diffusion.schedule, diffusion.parameterization and sampler.grid.

    Raises ValueError if the scheduler is not supported, or if `prediction` is given and is not the model's.
    """
    settings = read_json(file, source)
    name = str(settings.get("_class_name"))
    if name.startswith(("FlowMatch", "EDM")) or settings.get("use_flow_sigmas"):
        raise ValueError(f"pretrained={source}: {name}: flow matching and EDM models are not supported yet")
    return {
        "diffusion.schedule": _schedule(settings, source),
        "diffusion.parameterization": _parameterization(settings, source, prediction),
        "sampler.grid": _grids(settings, source),
    }


def _schedule(settings: Nodes, source: str) -> Nodes:
    betas = str(settings.get("beta_schedule", "linear"))
    if betas not in _SCHEDULES or settings.get("trained_betas") is not None:
        name = "trained_betas" if settings.get("trained_betas") is not None else f"beta_schedule={betas}"
        raise ValueError(
            f"pretrained={source}: {name} in scheduler_config.json is not supported; beta_schedule must be one of "
            + ", ".join(_SCHEDULES)
        )
    start, end = (settings.get(f"beta_{name}", default) for name, default in (("start", 1e-4), ("end", 0.02)))
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
    return _levels(settings, source, "leading", unit_start=True) | {"end_at_level": end_at_level}


def _multistep_grid(settings: Nodes, source: str) -> Nodes:
    grid = _levels(settings, source, "linspace", unit_start=True)
    if not grid["_target_"].endswith(".Trailing"):
        grid["skip_last"] = True
    return _karras(grid) if settings.get("use_karras_sigmas") else grid


def _euler_grid(settings: Nodes, source: str) -> Nodes:
    """Return the grid of Euler's method, which starts at sigma / alpha times the noise, unless its steps are leading."""
    grid = _levels(settings, source, "linspace", unit_start=False)
    if grid["_target_"].endswith(".Leading"):
        grid["unit_start"] = True
    if grid["_target_"].endswith(".Linspace"):
        grid["whole"] = False
    return _karras(grid) if settings.get("use_karras_sigmas") else grid


def _levels(settings: Nodes, source: str, default: str, unit_start: bool) -> Nodes:
    spacing = settings.get("timestep_spacing", default)
    if spacing not in _SPACINGS:
        raise ValueError(f"pretrained={source}: timestep_spacing={spacing} in scheduler_config.json is not supported")
    return {
        "_target_": f"{_GRID}.{_SPACINGS[spacing]}",
        "num_levels": settings.get("num_train_timesteps", 1000),
        "unit_start": unit_start,
        **({"offset": settings.get("steps_offset", 0)} if spacing == "leading" else {}),
    }


def _karras(grid: Nodes) -> Nodes:
    return {"_target_": f"{_GRID}.Karras", "rho": 7.0, "model": grid}
