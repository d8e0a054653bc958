from __future__ import annotations

import multiprocessing
import os
import pickle
import random
import resource
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_train.data.storage.base import Changed, Range, StorageError
from diffusion_train.data.storage.cached import CachedStorage
from diffusion_train.data.storage.local import LocalStorage
from diffusion_train.data.storage.remote import RemoteStorage
from diffusion_train.data.storage.settings import StorageSettings

BLOCK = 1 << 14
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


@pytest.fixture
def make_cached(tmp_path):
    def make(max_bytes=1 << 20, patience=60.0, folder=tmp_path / "cache", block_bytes=BLOCK):
        return CachedStorage(
            RemoteStorage(StorageSettings(gap_bytes=0, deadline=5)), folder, max_bytes, block_bytes, patience
        )

    return make


@pytest.fixture
def wanted(server):
    """(offset, size) pairs -> ranges, and the bytes they hold"""

    def make(*places):
        version = RemoteStorage().stat(server.url()).version
        server.seen.clear()
        data = server.objects["/a.tar"]
        return [Range(server.url(), version, *place) for place in places], [data[o : o + n] for o, n in places]

    return make


def _blocks(folder):
    return sorted(path for path in Path(folder).glob("??/*") if path.suffix != ".part")


def test_what_was_read_is_not_fetched_again(server, make_cached, wanted):
    ranges, data = wanted((5, 10), (BLOCK - 5, 20), (0, 0), (99_990, 10))
    assert make_cached().read(ranges) == data
    assert sorted(server.ranges()) == [f"bytes=0-{2 * BLOCK - 1}", f"bytes={6 * BLOCK}-99999"]
    server.shutdown()
    server.server_close()
    assert make_cached().read(ranges) == data


@given(st.lists(st.tuples(st.integers(0, 9999), st.integers(0, 3000)), max_size=6), st.integers(500, 4000))
@settings(max_examples=30, deadline=None)
def test_any_ranges_are_those_of_the_storage_behind(tmp_path_factory, places, block_bytes):
    path = tmp_path_factory.getbasetemp() / "behind"
    if not path.exists():
        path.write_bytes(random.Random(1).randbytes(10_000))
    behind = LocalStorage()
    ranges = [Range(str(path), behind.stat(str(path)).version, o, min(n, 10_000 - o)) for o, n in places]
    cached = CachedStorage(behind, tmp_path_factory.getbasetemp() / "shared", 30_000, block_bytes)
    assert cached.read(ranges) == behind.read(ranges)
    assert cached.read(ranges) == behind.read(ranges)


def test_another_version_is_another_object(server, make_cached, wanted):
    ranges, data = wanted((0, 100))
    assert make_cached().read(ranges) == data
    server.objects["/a.tar"] = server.objects["/a.tar"][::-1]
    ranges, data = wanted((0, 100))
    assert make_cached().read(ranges) == data


def test_a_range_beyond_the_object_is_an_error(make_cached, wanted):
    ranges, _ = wanted((99_990, 11))
    with pytest.raises(Changed):
        make_cached().read(ranges)


def test_faults_of_the_storage_behind_come_through_and_leave_no_lock(server, make_cached, wanted, tmp_path):
    ranges, data = wanted((0, 100))
    server.plan.append(lambda h: h.status(403))
    with pytest.raises(StorageError, match="403"):
        make_cached().read(ranges)
    assert not list(tmp_path.glob("cache/??/*"))
    assert make_cached().read(ranges) == data


@pytest.mark.parametrize("damage", ["bit", "checksum", "short", "empty"])
def test_a_damaged_block_is_fetched_again(server, make_cached, wanted, tmp_path, damage, caplog):
    ranges, data = wanted((5, 10))
    make_cached().read(ranges)
    [path] = _blocks(tmp_path / "cache")
    contents = bytearray(path.read_bytes())
    contents[{"bit": 7, "checksum": -1}.get(damage, 0)] ^= 1
    path.write_bytes({"short": contents[: BLOCK - 1], "empty": b""}.get(damage, contents))
    assert make_cached().read(ranges) == data
    assert len(server.seen) == 2
    assert "is damaged" in caplog.text
    assert make_cached().read(ranges) == data
    assert len(server.seen) == 2


def test_the_cache_is_bounded_and_drops_what_was_longest_unused(server, make_cached, wanted, tmp_path):
    cached = make_cached(max_bytes=4 * BLOCK + 100)
    ranges, _ = wanted(*((number * BLOCK, 10) for number in range(6)))
    for number in (0, 1, 2):
        cached.read([ranges[number]])
        time.sleep(0.01)
    cached.read([ranges[0]])
    for number in (3, 4):
        cached.read([ranges[number]])
        assert sum(path.stat().st_size for path in _blocks(tmp_path / "cache")) <= 4 * BLOCK + 100
    fetched = len(server.seen)
    cached.read([ranges[0], ranges[3], ranges[4]])
    assert len(server.seen) == fetched
    cached.read([ranges[1]])
    assert len(server.seen) == fetched + 1


def _read_and_send(cached, ranges, pipe):
    pipe.send(cached.read(ranges))


def _start(work, *arguments):
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=work, args=(*arguments, there), daemon=True)
    process.start()
    there.close()  # so that a process that dies is noticed
    return process, here


def test_processes_that_want_the_same_block_fetch_it_once(server, make_cached, wanted):
    ranges, data = wanted(*((number * BLOCK, 100) for number in range(6)))
    server.always = lambda h: (time.sleep(0.1), h.ok())
    started = [
        _start(
            _read_and_send,
            make_cached(),
            random.sample(ranges, 6),
        )
        for _ in range(4)
    ]
    for process, pipe in started:
        assert sorted(pipe.recv()) == sorted(data)
        process.join(5)
    covered = [offset for asked in server.ranges() for offset in _offsets(asked)]
    assert sorted(covered) == [number * BLOCK for number in range(6)]


def _offsets(asked, block_bytes=BLOCK):
    first, last = map(int, asked.removeprefix("bytes=").split("-"))
    return range(first, last + 1, block_bytes)


@pytest.fixture
def _impatient_threads():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("_impatient_threads")
def test_threads_that_want_the_same_block_fetch_it_once(server, make_cached, wanted):
    ranges, data = wanted(*((number * 1000, 100) for number in range(80)))
    cached, results = make_cached(block_bytes=1000), []

    def work():
        order = random.sample(range(80), 80)
        parts = {}
        for places in (order[start : start + 10] for start in range(0, 80, 10)):
            parts |= zip(places, cached.read([ranges[place] for place in places]), strict=True)
        results.append([parts[place] for place in range(80)])

    threads = [threading.Thread(target=work) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert results == [data] * 4
    offsets = [offset for asked in server.ranges() for offset in _offsets(asked, 1000)]
    assert sorted(offsets) == [number * 1000 for number in range(80)]


def test_a_killed_process_leaves_no_lock_behind(server, make_cached, wanted, tmp_path):
    ranges, data = wanted((0, 100))
    server.plan.append(lambda h: h.stall())
    process, _ = _start(_read_and_send, make_cached(), ranges)
    _until(lambda: len(server.seen) == 1)
    os.kill(process.pid, signal.SIGKILL)
    process.join(5)
    start = time.monotonic()
    assert make_cached().read(ranges) == data
    assert time.monotonic() - start < 2
    assert not list(tmp_path.glob("cache/??/*.part"))


def test_a_process_that_holds_a_block_too_long_is_not_waited_for(server, make_cached, wanted):
    ranges, data = wanted((0, 100))
    server.plan.append(lambda h: h.stall())
    process, _ = _start(_read_and_send, make_cached(), ranges)
    _until(lambda: len(server.seen) == 1)
    start = time.monotonic()
    assert make_cached(patience=0.2).read(ranges) == data
    assert time.monotonic() - start < 2
    process.kill()
    process.join(5)


def _until(condition):
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


def _read_on_a_full_disk(cached, ranges, pipe):
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    pipe.send([cached.read(ranges), cached.read(ranges)])


def test_a_full_disk_only_means_no_caching(server, make_cached, wanted, tmp_path):
    ranges, data = wanted((0, 100))
    process, pipe = _start(_read_on_a_full_disk, make_cached(), ranges)
    assert pipe.recv() == [data, data]
    process.join(5)
    assert not list(tmp_path.glob("cache/??/*"))
    assert len(server.seen) == 2


def test_a_folder_that_cannot_be_made_only_means_no_caching(make_cached, wanted, tmp_path, caplog):
    (tmp_path / "file").write_bytes(b"")
    ranges, data = wanted((0, 100), (2 * BLOCK, 5))
    cached = make_cached(folder=tmp_path / "file" / "cache")
    assert cached.read(ranges) == cached.read(ranges) == data
    assert caplog.text.count("continuing without it") == 1


def test_fill_returns_at_once_and_the_reader_finds_what_came(server, make_cached, wanted):
    ranges, data = wanted((0, 100), (3 * BLOCK, 100))
    server.always = lambda h: (time.sleep(0.3), h.ok())
    cached = make_cached()
    start = time.monotonic()
    cached.fill(ranges)
    assert time.monotonic() - start < 0.1
    _until(lambda: len(server.seen) == 2)
    assert cached.read(ranges) == data
    assert len(server.seen) == 2
    cached.fill(ranges)
    _until(lambda: "prefetch" not in [thread.name for thread in threading.enumerate()])
    assert len(server.seen) == 2


def test_a_fault_while_filling_shows_when_it_is_read(server, make_cached, wanted):
    ranges, data = wanted((0, 100))
    server.always = lambda h: h.status(404)
    cached = make_cached()
    cached.fill(ranges)
    _until(lambda: "prefetch" not in [thread.name for thread in threading.enumerate()])
    with pytest.raises(StorageError, match="404"):
        cached.read(ranges)
    server.always = lambda h: h.ok()
    cached.fill(ranges)
    assert cached.read(ranges) == data


def test_a_copy_uses_the_same_folder(server, make_cached, wanted):
    ranges, data = wanted((0, 100))
    cached = make_cached()
    cached.read(ranges)
    assert pickle.loads(pickle.dumps(cached)).read(ranges) == data
    assert len(server.seen) == 1


def test_a_cache_too_small_for_anything_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"data.storage.cache_bytes must be at least 8388608, got 100"):
        CachedStorage(LocalStorage(), tmp_path, 100)
