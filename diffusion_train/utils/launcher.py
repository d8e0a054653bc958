"""Reads the variables that torchrun, srun, mpirun and Lightning set for the processes that they start."""

from __future__ import annotations

import os

_OF_ALL = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")  # of launchers that start every process
_COUNTS = ("WORLD_SIZE", *_OF_ALL)
_RANKS = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "LOCAL_RANK")


def num_started(by_all: bool = False) -> int:
    """Return how many processes a launcher started; 1 without one. `by_all` counts only srun and mpirun."""
    names = _OF_ALL if by_all else _COUNTS
    return max((int(count) for name in names if (count := os.environ.get(name, "")).isdigit()), default=1)


def first_process() -> bool:
    """Return whether this is the only process, or the first of those that a launcher started."""
    ranks = [*_RANKS, "NODE_RANK"] if "MASTER_ADDR" in os.environ else _RANKS  # alone, NODE_RANK starts nothing
    return all(os.environ.get(name, "0") == "0" for name in ranks)
