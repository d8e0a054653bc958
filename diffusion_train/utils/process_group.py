"""The process group of one training run, taken down when it ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist

_OF_LIGHTNING = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE")


@contextmanager
def own_process_group() -> Iterator[None]:
    """Leaves no process group and no variables of Lightning's behind: the next run of a sweep starts processes anew."""
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
