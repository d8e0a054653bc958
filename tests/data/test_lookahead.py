from __future__ import annotations

from diffusion_train.data.lookahead import for_cache
from diffusion_train.data.order.order import Window


def test_a_cache_too_small_for_the_order_is_told_with_the_number_to_set(caplog):
    windows = [Window(1000), Window(500, stretch=4.0)]
    held = 1000 * 100 + 500 * 400
    assert for_cache(windows, 100.0, 10**9, int(2.5 * held), 1000).num_samples == 1500
    assert not caplog.records
    assert for_cache(windows, 100.0, 10**9, held, 1000).num_samples == 600
    assert f"data.storage.cache_bytes={held} is too small" in caplog.text
    assert f"set data.storage.cache_bytes={int(2.5 * held)}" in caplog.text


def test_a_cache_need_hold_no_more_than_there_is_nor_more_than_a_block_a_sample(caplog):
    assert for_cache([Window(1000)], 100.0, 90_000, 100_000, 1000).num_samples == 1000
    assert for_cache([Window(1000, stretch=1e6)], 100.0, 10**9, 2_750_000, 1000).num_samples == 1000
    assert not caplog.records
