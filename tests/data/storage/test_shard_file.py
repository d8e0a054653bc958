from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from diffusion_train.data.shard import tar
from diffusion_train.data.storage.base import StorageError
from diffusion_train.data.storage.local import LocalStorage
from diffusion_train.data.storage.remote import RemoteStorage
from diffusion_train.data.storage.shard_file import read_whole, shard_file


def _open(storage, url, read_ahead=1 << 22):
    size, version = storage.stat(url)
    return shard_file(storage, url, version, size, read_ahead)


STEPS = st.lists(st.tuples(st.integers(-5, 60), st.sampled_from([0, 1, 2]), st.integers(-1, 30)), max_size=8)


@given(steps=STEPS, read_ahead=st.integers(1, 40))
@settings(max_examples=60)
def test_a_shard_file_reads_and_seeks_like_a_file(tmp_path_factory, steps, read_ahead):
    path = tmp_path_factory.getbasetemp() / "letters"
    path.write_bytes(bytes(range(50)))
    with _open(LocalStorage(), str(path), read_ahead) as ours, path.open("rb") as theirs:
        for offset, whence, size in steps:
            if offset + (0, theirs.tell(), 50)[whence] >= 0:
                assert ours.seek(offset, whence) == theirs.seek(offset, whence)
            assert ours.read(size) == theirs.read(size)
            assert ours.tell() == theirs.tell()


def test_a_remote_shard_is_walked_in_few_requests(server):
    out, image = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (5, 4), "red").save(image, "png")
    with tarfile.open(fileobj=out, mode="w") as archive:
        for number in range(200):
            info = tarfile.TarInfo(f"{number}.png")
            info.size = len(image.getvalue())
            archive.addfile(info, io.BytesIO(image.getvalue()))
    server.objects["/a.tar"] = out.getvalue()
    with _open(RemoteStorage(), server.url()) as file:
        members = list(tar.walk(file, len(out.getvalue())))
        file.seek(members[7].offset)
        assert Image.open(io.BytesIO(file.read(members[7].size))).size == (5, 4)
    assert [member.name for member in members] == [f"{number}.png" for number in range(200)]
    assert len(server.seen) == 3


def test_pillow_opens_a_remote_image(server):
    out = io.BytesIO()
    Image.new("RGB", (5, 4), "red").save(out, "png")
    server.objects["/a.png"] = out.getvalue()
    with _open(RemoteStorage(), server.url("/a.png")) as file:
        assert Image.open(file).getpixel((4, 3)) == (255, 0, 0)


def test_a_small_object_is_read_whole_or_not_there(server):
    storage = RemoteStorage()
    assert read_whole(storage, server.url(), 100_000) == server.objects["/a.tar"]
    assert read_whole(storage, server.url("/none"), 100_000) is None
    server.plan.append(lambda h: h.status(403))
    assert read_whole(storage, server.url(), 100_000) is None
    with pytest.raises(StorageError, match="must have at most 99999 bytes, got 100000"):
        read_whole(storage, server.url(), 99_999)
    server.always = lambda h: h.html()
    with pytest.raises(StorageError):
        read_whole(storage, server.url(), 100_000)
