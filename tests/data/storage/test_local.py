from __future__ import annotations

import ctypes
import mmap
import multiprocessing
import os
import pickle
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from diffusion_train.data.storage import local
from diffusion_train.data.storage.base import Changed, Denied, Missing, Range, StorageError
from diffusion_train.data.storage.local import LocalStorage


@pytest.fixture
def make_files(tmp_path):
    """(number) -> files of 1000 bytes with contents of their own, and their ranges"""

    def make(number):
        ranges = []
        for name in range(number):
            path = tmp_path / f"{name}.tar"
            path.write_bytes(bytes([name]) * 1000)
            ranges.append(Range(str(path), LocalStorage().stat(str(path)).version, 10 * name, 20))
        return ranges

    return make


def test_ranges_come_back_in_order(make_files):
    ranges = make_files(3)
    assert LocalStorage().read(ranges[::-1] + ranges) == [bytes([name]) * 20 for name in (2, 1, 0, 0, 1, 2)]


def test_what_is_advised_is_in_memory_before_it_is_read(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(os.urandom(1 << 20))
    storage, pages = LocalStorage(), slice(100, 107)
    wanted = [Range(str(path), storage.stat(str(path)).version, 100 * 4096, 7 * 4096)]
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if any(_in_memory(path)):
        pytest.skip("this file system keeps files in memory")
    storage.advise(wanted)
    time.sleep(0.1)
    assert not any(_in_memory(path))  # reading has not waited so far
    storage.has_waited = True
    storage.advise(wanted)
    until = time.monotonic() + 5
    while not all(_in_memory(path)[pages]) and time.monotonic() < until:
        time.sleep(0.01)
    assert all(_in_memory(path)[pages])
    assert not all(_in_memory(path))


def _in_memory(path):
    """Whether each page of 4 KiB is (n,)."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
        pages = (ctypes.c_ubyte * (len(mapped) // 4096))()
        start = ctypes.c_ubyte.from_buffer(mapped)
        failed = ctypes.CDLL(None).mincore(
            ctypes.c_void_p(ctypes.addressof(start)), ctypes.c_size_t(len(mapped)), pages
        )
        del start
    if failed:
        pytest.skip("this system does not tell what is in memory")
    return [bool(page & 1) for page in pages]


def test_that_reading_waits_is_noticed(make_files, monkeypatch):
    storage, ranges = LocalStorage(), make_files(3)
    read = os.pread
    monkeypatch.setattr(os, "pread", lambda *wanted: (time.sleep(0.001), read(*wanted))[1])
    storage.read(ranges)
    assert storage.has_waited
    assert pickle.loads(pickle.dumps(storage)).has_waited


def test_a_file_that_is_not_as_it_was_is_told_of_when_it_is_read_not_when_it_is_advised(make_files):
    [wanted, missing] = make_files(2)
    wanted, missing = wanted._replace(size=5000), missing._replace(url=f"{missing.url}.gone", size=5000)
    storage = LocalStorage()
    storage.has_waited = True
    storage.advise([wanted, missing])
    with pytest.raises(Changed):
        storage.read([wanted])
    with pytest.raises(Missing):
        storage.read([missing])


def test_file_urls(tmp_path):
    path = tmp_path / "a b.tar"
    path.write_bytes(b"abc")
    url = f"file://{tmp_path}/a%20b.tar"
    size, version = LocalStorage().stat(url)
    assert LocalStorage().read([Range(url, version, 1, size - 1)]) == [b"bc"]


def test_few_files_stay_open(make_files, monkeypatch):
    monkeypatch.setattr(local, "_MAX_OPEN", 2)
    storage, ranges = LocalStorage(), make_files(5)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(2):
        assert [storage.read([wanted])[0][0] for wanted in ranges] == [0, 1, 2, 3, 4]
        assert len(os.listdir("/proc/self/fd")) <= before + 2
    del storage
    assert len(os.listdir("/proc/self/fd")) == before


def test_threads_never_read_a_file_that_another_closed(make_files, monkeypatch):
    monkeypatch.setattr(local, "_MAX_OPEN", 1)
    storage, ranges = LocalStorage(), make_files(8)

    def work(shift):
        return [storage.read([ranges[(turn * 3 + shift) % 8]])[0][0] for turn in range(400)]

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(work, range(4))) == [[(n * 3 + shift) % 8 for n in range(400)] for shift in range(4)]


def _send(storage, ranges, pipe):
    pipe.send(storage.read(ranges))


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_process_reads_at_places_of_its_own(make_files):
    storage, ranges = LocalStorage(), make_files(2)
    storage.read(ranges)
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    worker = context.Process(target=_send, args=(storage, ranges, there))
    worker.start()
    assert here.recv() == storage.read(ranges)
    worker.join(5)


def test_a_copy_in_another_process_opens_its_own_files(make_files):
    storage, ranges = LocalStorage(), make_files(2)
    wanted = storage.read(ranges)
    copied = pickle.loads(pickle.dumps(storage))
    del storage
    assert copied.read(ranges) == wanted


@pytest.mark.parametrize("opened", [False, True], ids=["closed", "open"])
@pytest.mark.parametrize("change", ["time", "size", "contents"])
def test_a_file_that_changed_is_refused(make_files, change, opened):
    storage, [wanted] = LocalStorage(), make_files(1)
    if opened:
        storage.read([wanted])
    if change == "time":
        os.utime(wanted.url, ns=(0, 0))
    elif change == "size":
        stat = os.stat(wanted.url)
        os.truncate(wanted.url, 512)
        os.utime(wanted.url, ns=(0, stat.st_mtime_ns))
    else:
        os.utime(wanted.url, ns=(0, 0))
        wanted = wanted._replace(version=LocalStorage().stat(wanted.url).version)
        with open(wanted.url, "r+b") as file:
            file.write(b"other")
    with pytest.raises(Changed, match="changed since"):
        storage.read([wanted])


@pytest.mark.parametrize("place", [(990, 11), (1000, 1), (5000, 1)])
def test_a_range_beyond_the_file_is_refused(make_files, place):
    [wanted] = make_files(1)
    with pytest.raises(Changed, match=r"expected [0-9]+ bytes, got"):
        LocalStorage().read([Range(wanted.url, wanted.version, *place)])


def test_a_dangling_link_is_named(tmp_path):
    link = tmp_path / "a.tar"
    link.symlink_to(tmp_path / "gone.tar")
    for path, message in ((link, "a broken link"), (tmp_path / "b.tar", "no such file")):
        with pytest.raises(Missing, match=f"^{path}: {message}"):
            LocalStorage().stat(str(path))


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_what_is_no_file_is_refused(tmp_path, kind):
    path = tmp_path / "a.tar"
    path.mkdir() if kind == "folder" else os.mkfifo(path)
    with pytest.raises(StorageError, match="not a file"):
        LocalStorage().stat(str(path))


def _stat_as_nobody(path, pipe):
    os.setuid(65534) if os.geteuid() == 0 else None
    try:
        LocalStorage().stat(path)
    except StorageError as error:
        pipe.send(error)


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_an_unreadable_file_is_named_with_the_user(make_files):
    [wanted] = make_files(1)
    os.chmod(os.path.dirname(wanted.url), 0)
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    worker = context.Process(target=_stat_as_nobody, args=(wanted.url, there))
    worker.start()
    error = here.recv()
    os.chmod(os.path.dirname(wanted.url), 0o700)
    worker.join(5)
    assert isinstance(error, Denied)
    assert wanted.url in str(error)
    assert str(error).endswith("for user nobody") or os.geteuid() != 0
