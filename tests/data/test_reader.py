from __future__ import annotations

import os
import pickle

import pytest

from diffusion_train.data import reader
from diffusion_train.data.index import DataError, build_index
from diffusion_train.data.reader import ShardReader


def _row(shard, sample, extension):
    return int(shard.starts[sample]) + list(shard.sample(sample)).index(extension)


def test_members_are_read_back(make_shards, make_png):
    shards = [build_index(path) for path in make_shards(5, 2)]
    found = ShardReader(shards)
    assert found.read(1, _row(shards[1], 1, "png")) == make_png(3)
    assert found.read(2, _row(shards[2], 0, "txt")) == b"caption 4"


def test_few_files_stay_open(make_shards, monkeypatch):
    monkeypatch.setattr(reader, "_MAX_OPEN", 2)
    shards = [build_index(path) for path in make_shards(5, 1)]
    found = ShardReader(shards)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(2):
        assert [found.read(shard, 2) for shard in range(5)] == [b"caption %d" % shard for shard in range(5)]
    assert len(os.listdir("/proc/self/fd")) <= before + 2
    del found
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_copy_in_another_process_opens_its_own_files(make_shards):
    shards = [build_index(path) for path in make_shards(2, 2)]
    found = ShardReader(shards)
    found.read(0, 0)
    copied = pickle.loads(pickle.dumps(found))
    del found
    assert copied.read(0, 2) == b"caption 0"


def _damage(path, offset):
    stat = path.stat()
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_a_flipped_bit_is_found_by_its_checksum(make_shards):
    [path] = make_shards(2, 2)
    shard = build_index(path)
    offset = int(shard.members["offset"][2])
    _damage(path, offset)
    with pytest.raises(DataError, match=rf"part-000000.tar at byte {offset}: the checksum"):
        ShardReader([shard]).read(0, 2)
    assert ShardReader([shard], verify=False).read(0, 2) == b"baption 0"


@pytest.mark.parametrize("change", ["time", "size", "gone"])
def test_a_shard_that_changed_is_refused(make_shards, change):
    [path] = make_shards(2, 2)
    shard = build_index(path)
    if change == "time":
        os.utime(path, ns=(0, 0))
    elif change == "size":
        os.truncate(path, 1024)
        os.utime(path, ns=(0, shard.mtime_ns))
    else:
        path.unlink()
    with pytest.raises(DataError, match="No such file" if change == "gone" else "changed since"):
        ShardReader([shard]).read(0, 0)


def test_a_file_cut_while_it_is_open_is_noticed(make_shards):
    [path] = make_shards(2, 2)
    found = ShardReader([build_index(path)])
    found.read(0, 0)
    os.truncate(path, 1000)
    with pytest.raises(DataError, match="bytes wanted"):
        found.read(0, 4)
