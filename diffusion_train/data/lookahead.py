"""Choose how far to read ahead of training."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from diffusion_train.data.base import Lookahead
from diffusion_train.data.order.order import Window

log = logging.getLogger(__name__)
_WINDOWS = 2.5  # a cache should hold the current window, the next one, and room for evictions


def for_cache(
    windows: Sequence[Window], mean_bytes: float, total: int, cache_bytes: int, block_bytes: int
) -> Lookahead:
    """Return a lookahead of one window, or less if the cache is too small, which gives a warning.

    `mean_bytes` is the size of a sample, `total` that of all remote shards. A cache keeps whole blocks, so it also
    keeps the bytes between the samples of a window, up to one block for each sample.
    """
    num_samples = sum(window.num_samples for window in windows)
    held = sum(window.num_samples * min(mean_bytes * window.stretch, block_bytes + mean_bytes) for window in windows)
    wanted = max(int(min(_WINDOWS * held, total / 0.9)), 1)
    if wanted > cache_bytes:
        log.warning(
            "data.storage.cache_bytes=%d is too small for the current and next windows (%d of %d samples in total), so "
            "blocks are fetched repeatedly; set data.storage.cache_bytes=%d, or lower data.window",
            *(cache_bytes, len(windows), num_samples, wanted),
        )
    return Lookahead(num_samples=max(int(num_samples * min(1.0, cache_bytes / wanted)), 1))
