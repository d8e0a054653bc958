"""What a chosen sampler or grid takes from a run or a pretrained model: its grid, and what belongs to the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_GRID = "diffusion_train.sampler.grid"
_OF_THE_RUN = {"grid", "clip_x0"}


def sampler_for_run(option: Mapping[str, Any], run: Mapping[str, Any], grid_chosen: bool) -> dict[str, Any]:
    """Return the node of a sampler that is chosen for a run.

    It keeps the run's `clip_x0`, which belongs to the data, and the run's grid, unless it or `grid_chosen` says
    otherwise. If it differs in no other setting from the run's sampler, it keeps `num_steps` too.
    """
    others = (option.keys() | run.keys()) - {*_OF_THE_RUN, "num_steps"}
    kept = {"clip_x0"}
    if all(option.get(name) == run.get(name) for name in others):
        kept.add("num_steps")
    if takes_model_grid(option) and not grid_chosen:
        kept.add("grid")
    return {**option, **{name: run[name] for name in kept & option.keys() & run.keys()}}


def takes_model_grid(sampler: Mapping[str, Any]) -> bool:
    """Whether the grid of a sampler's node is the plain Uniform of our options, which the model's grid replaces."""
    return bool(sampler.get("grid") == {"_target_": f"{_GRID}.Uniform"})


def with_model_grid(grid: Mapping[str, Any], model: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the node of a chosen grid; Karras levels that replace a pretrained model's grid refer to it."""
    replaced = _model_grid(model or {})
    refers = grid.get("_target_") == f"{_GRID}.Karras" and grid.get("model", "") is None
    return {**grid, "model": replaced} if refers and replaced else dict(grid)


def _model_grid(grid: Mapping[str, Any]) -> Any:
    """Return the pretrained model's grid in the node of a grid, or None."""
    if grid.get("_target_") == f"{_GRID}.BySampler":
        return grid
    return grid.get("model") if grid.get("_target_") == f"{_GRID}.Karras" else None
