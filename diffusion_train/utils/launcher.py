"""What torchrun, srun and mpirun tell the processes that they start, and what Lightning tells those of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

_OF_ALL = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")  # by those that start every process
_COUNTS = ("WORLD_SIZE", *_OF_ALL)
_RANKS = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "LOCAL_RANK", "NODE_RANK")
_OF_LIGHTNING = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE")


def num_started(by_all: bool = False) -> int:
    """How many processes a launcher started together; 1 without one, and `by_all` without srun or mpirun."""
    names = _OF_ALL if by_all else _COUNTS
    return max((int(count) for name in names if (count := os.environ.get(name, "")).isdigit()), default=1)


def first_process() -> bool:
    """Whether this is the one process, or the first of those that a launcher started."""
    return all(os.environ.get(name, "0") == "0" for name in _RANKS)


@contextmanager
def processes_of_its_own() -> Iterator[None]:
    """Leaves no process group and no variables of Lightning's behind: the next run of a sweep starts processes anew."""
    import torch.distributed as dist

    before = {name: os.environ.get(name) for name in _OF_LIGHTNING}
    try:
        yield
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()  # after an error it might wait for the others
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
