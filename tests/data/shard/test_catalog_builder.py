"""Opening many shards at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time

import pytest

from diffusion_train.data.shard import catalog_builder
from diffusion_train.data.storage.base import Stat
from diffusion_train.utils.process.interruption import Interrupted, interruptible


def slow(url, storage):
    time.sleep(0.5)


def test_a_signal_while_shards_are_indexed_does_not_wait_for_all_of_them(monkeypatch) -> None:
    forked = multiprocessing.get_context("fork")  # which knows what is patched
    monkeypatch.setattr(multiprocessing, "get_context", lambda kind: forked)
    monkeypatch.setattr(catalog_builder, "load_index", lambda *place: None)
    monkeypatch.setattr(catalog_builder, "_build_one", slow)
    threading.Timer(0.7, os.kill, (os.getpid(), signal.SIGTERM)).start()
    start = time.monotonic()
    with interruptible(), pytest.raises(Interrupted):
        catalog_builder._indexes([f"{number}.tar" for number in range(400)], [Stat(1 << 20, "")] * 400, None)
    assert time.monotonic() - start < 30  # all of them take 100 seconds on two processors
