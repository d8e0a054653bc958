"""Check batch sizes, and whether a batch can be divided over processes."""

from __future__ import annotations

import math
from collections.abc import Iterator


def wrong_sizes(
    batch_size: int = 1,
    micro_batch_size: int | None = None,
    num_workers: int = 0,
    num_repeated_batches: int | None = None,
) -> Iterator[str]:
    """Yield a message for each size that is out of range."""
    if batch_size < 1:
        yield f"data.batch_size={batch_size}: must be at least 1"
    if micro_batch_size is not None and micro_batch_size < 1:
        yield f"data.micro_batch_size={micro_batch_size}: must be at least 1, or null for the whole batch at once"
    if num_workers < 0:
        yield f"data.num_workers={num_workers}: must be at least 0"
    if num_repeated_batches is not None and num_repeated_batches < 1:
        yield f"data.num_repeated_batches={num_repeated_batches}: must be at least 1, or null for all"


def indivisible(batch_size: int, world_size: int, num_lanes: int | None = None) -> Iterator[str]:
    """Yield a message if a batch cannot be divided evenly over the processes and the lanes of an order."""
    multiple = math.lcm(world_size, num_lanes or 1)
    if batch_size % multiple:
        below, above = batch_size // multiple * multiple, (batch_size // multiple + 1) * multiple
        lanes = f" and data.num_lanes={num_lanes}" if num_lanes else ""
        yield (
            f"data.batch_size={batch_size}: must be divisible by {multiple}, for {world_size} process(es){lanes}; "
            f"use {f'{below} or ' if below > 0 else ''}{above}"
        )
