from __future__ import annotations

import pickle

from diffusion_train.data.storage.base import Range
from diffusion_train.data.storage.by_scheme import StorageByScheme
from diffusion_train.data.storage.settings import StorageSettings


def test_local_and_remote_ranges_mix(server, tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(bytes(range(100)))
    for storage in (StorageByScheme(), StorageByScheme(StorageSettings(cache_folder=tmp_path / "cache"))):
        ranges = [
            Range(url, storage.stat(url).version, offset, 5)
            for url, offset in ((server.url(), 3), (str(path), 4), (server.url(), 50_000), (f"file://{path}", 90))
        ]
        assert storage.read(ranges) == [
            server.objects["/a.tar"][3:8],
            bytes(range(4, 9)),
            server.objects["/a.tar"][50_000:50_005],
            bytes(range(90, 95)),
        ]


def test_the_cache_is_used_and_travels(server, tmp_path):
    storage = StorageByScheme(StorageSettings(tmp_path / "cache", deadline=5))
    ranges = [Range(server.url(), storage.stat(server.url()).version, 3, 5)]
    storage.prefetch(ranges)
    wanted = storage.read(ranges)
    server.shutdown()
    server.server_close()
    assert pickle.loads(pickle.dumps(storage)).read(ranges) == wanted


def test_retries_are_counted(server):
    storage = StorageByScheme()
    server.plan.append(lambda h: h.status(503))
    storage.stat(server.url())
    assert storage.num_retries == 1
