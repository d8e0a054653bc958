"""How far ahead of training it is worth to read."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from diffusion_train.data.base import Lookahead
from diffusion_train.data.order.order import Window

log = logging.getLogger(__name__)
_WINDOWS = 2.5  # that a cache should hold: the one at hand, the next, and room for evictions


def for_cache(
    windows: Sequence[Window], mean_bytes: float, total: int, cache_bytes: int, block_bytes: int
) -> Lookahead:
    """One window ahead, or as much of it as the cache has room for; a cache that is too small gives a warning.

    A cache keeps whole blocks: what lies between the samples of a window is kept too, up to a block a sample.
    """
    num_samples = sum(window.num_samples for window in windows)
    held = sum(window.num_samples * min(mean_bytes * window.stretch, block_bytes + mean_bytes) for window in windows)
    wanted = max(int(min(_WINDOWS * held, total / 0.9)), 1)
    if wanted > cache_bytes:
        log.warning(
            "data.storage.cache_bytes=%d holds less than the order goes over at a time, %d windows of %d samples in all, "
            "and the ones after: blocks will be fetched again and again. Set data.storage.cache_bytes=%d, or a smaller "
            "data.window",
            *(cache_bytes, len(windows), num_samples, wanted),
        )
    return Lookahead(num_samples=max(int(num_samples * min(1.0, cache_bytes / wanted)), 1))
