"""Reads the variables that torchrun, srun, mpirun and Lightning set for the processes that they start."""

from __future__ import annotations

import os

from diffusion_train.utils.exit_code import Exit

_OF_ALL = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")  # of launchers that start every process
_COUNTS = ("WORLD_SIZE", *_OF_ALL)
_RANKS = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "LOCAL_RANK")
_NODE = "NODE_RANK"  # of a node that somebody starts by hand
STARTED_BY = "DIFFUSION_TRAIN_STARTED_BY"  # which we set ourselves


def num_started(by_all: bool = False) -> int:
    """Return how many processes a launcher started; 1 without one. `by_all` counts only srun and mpirun."""
    names = _OF_ALL if by_all else _COUNTS
    return max((int(count) for name in names if (count := os.environ.get(name, "")).isdigit()), default=1)


def first_process(num_nodes: int = 1) -> bool:
    """Return whether this is the only process, or the first of all; `num_nodes` is `trainer.num_nodes`.

    A rank counts only if there are several processes. Without them it is left over from another job, or inherited.
    """
    by_hand = num_started(by_all=True) == 1 and "RANK" not in os.environ
    of_nodes = [_NODE] if by_hand and max(num_nodes, num_started()) > 1 else []
    of_processes = _RANKS if num_started() > 1 else ()
    return all(os.environ.get(name, "0") == "0" for name in (*of_processes, *of_nodes))


def starter() -> int | None:
    """Return the id of the first process of a node, if it started this one: see `training.rank_processes`."""
    return int(os.environ[STARTED_BY]) if STARTED_BY in os.environ else None


def common_code(code: Exit) -> Exit:
    """Return the exit code of this process if all processes are interrupted: 0 in those of torchrun, srun and mpirun.

    They may kill the first process, even while it writes, once another one exits with a code other than 0.
    """
    return code if first_process() or starter() else Exit.DONE
