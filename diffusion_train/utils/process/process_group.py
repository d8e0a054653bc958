"""Removes the process group of a training run when the run ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist

_OF_LIGHTNING = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE")


@contextmanager
def own_process_group() -> Iterator[None]:
    """Remove the process group and Lightning's variables after the block; the next run of a sweep starts new ones."""
    before = {name: os.environ.get(name) for name in _OF_LIGHTNING}
    try:
        yield
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()  # not after an error, when it might wait for others
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
