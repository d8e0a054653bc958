"""Images that are damaged, of unusual kinds, or meant to do harm."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import zlib
from functools import partial

import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageOps

from diffusion_train.data.datamodule import DataModule
from diffusion_train.data.image.decode import MAX_PIXELS
from diffusion_train.data.image.transform import ImageTransform
from diffusion_train.data.order.order import Order
from diffusion_train.data.order.order_spec import OrderSpec
from diffusion_train.data.order.resolution import AspectRatios
from diffusion_train.data.shard.problem import DataError
from diffusion_train.data.storage.by_scheme import StorageByScheme
from diffusion_train.utils.exit_code import Exit


def encode(image: Image.Image, kind: str = "png", **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


@pytest.fixture(scope="session")
def photo() -> Image.Image:
    with Image.open(f"{matplotlib.get_data_path()}/sample_data/grace_hopper.jpg") as image:
        return image.convert("RGB").crop((100, 0, 356, 256))


@pytest.fixture
def shown(make_tar, make_dataset, read):
    """An encoded image -> the levels (256, 256, 3) that are trained on."""

    def show(data: bytes, kind: str, **options) -> np.ndarray:
        path = make_tar([(f"a.{kind}", data), ("a.txt", b"a")])
        [sample] = read(make_dataset(path, transform=ImageTransform(256, **options)))
        assert sample["bad"] == ""
        return sample["x"].permute(1, 2, 0).float().numpy()

    return show


def test_a_jpeg_that_ends_early(make_tar, photo, train):
    images = [encode(photo.resize((64, 64)).rotate(10 * turn), "jpeg") for turn in range(8)]
    members = [(f"{i}.jpg", data[:-400] if i == 3 else data) for i, data in enumerate(images)]
    path = make_tar(members + [(f"{i}.txt", b"caption") for i in range(8)])
    run = train(path, "trainer.max_steps=6")
    assert run.code == Exit.DONE, run.told
    [bad] = run.bad
    assert (bad["rule"], bad["shard"], bad["key"]) == ("bad-sample", str(path), "3")
    assert path.read_bytes()[bad["offset"] :].startswith(images[3][:100])
    assert "damaged image" in bad["detail"]
    assert run.num_bad == 1
    assert [len(batch) for batch in run.batches] == [4] * 6
    assert run.keys == set("0124567")
    assert train(path, "trainer.max_steps=6", folder="again").batches == run.batches


@pytest.mark.parametrize("verify", [True, False], ids=["checksum", "no-checksum"])
def test_a_jpeg_whose_flipped_bytes_decode(make_tar, photo, make_dataset, read, verify):
    """Without the checksum of the index nothing finds it."""
    data = encode(photo, "jpeg", quality=90)
    path = make_tar([("a.jpg", data), ("a.txt", b"a"), ("b.jpg", data), ("b.txt", b"b")])
    dataset = make_dataset(path, verify=verify)
    whole = read(dataset)[0]
    place = dataset.catalog.members_of([0])[0]["jpg"][0].offset + len(data) // 2
    times = path.stat()
    with path.open("r+b") as file:
        file.seek(place)
        file.write(bytes(byte ^ 1 for byte in path.read_bytes()[place : place + 3]))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    dataset.storage = StorageByScheme()
    first, second = read(dataset)
    assert (second["key"], second["bad"]) == ("b", "")
    if verify:
        assert first["key"] == "b"
        assert "the checksum differs from the index" in json.loads(first["bad"])["detail"]
    else:
        assert (first["key"], first["bad"]) == ("a", "")
        assert (first["x"] != whole["x"]).any()


KINDS = {
    "cmyk": (lambda image: image.convert("CMYK"), "jpg", {"quality": 98, "subsampling": 0}),
    "grey": (lambda image: image.convert("L"), "jpg", {"quality": 98}),
    "palette": (lambda image: image.quantize(200), "png", {}),
    "one-bit": (lambda image: image.convert("1"), "png", {}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_cmyk_grey_palette_and_one_bit_images(photo, shown, kind):
    change, extension, options = KINDS[kind]
    image = change(photo)
    data = encode(image, "jpeg" if extension == "jpg" else extension, **options)
    difference = np.abs(shown(data, extension) - np.asarray(image.convert("RGB")).astype(int))
    assert difference.mean() <= 2
    assert np.percentile(difference, 99) <= (6 if extension == "jpg" else 0)


def test_a_png_of_16_bits(shown):
    levels = np.linspace(0, 65535, 256 * 256).astype(np.uint16).reshape(256, 256)
    data = encode(Image.fromarray(levels))
    assert Image.open(io.BytesIO(data)).mode.startswith("I")
    found = shown(data, "png")
    assert abs(found.mean() - 127.5) < 0.5  # Pillow's own conversion clips to white: 251
    assert np.abs(found - levels[..., None] / 257).max() <= 1


def test_a_transparent_image(photo, shown):
    alpha = Image.fromarray(np.tile(np.arange(256, dtype=np.uint8), (256, 1)))
    image = photo.copy()
    image.putalpha(alpha)
    share = np.asarray(alpha)[..., None] / 255
    for colour in ((255, 255, 255), (10, 200, 90)):
        found = shown(encode(image), "png", background=colour)
        expected = np.asarray(photo) * share + np.array(colour) * (1 - share)
        assert np.abs(found - expected).max() <= 1.5


@pytest.mark.parametrize("kind", ["gif", "webp"])
def test_an_animated_image(photo, make_tar, make_dataset, read, kind):
    frames = [photo.resize((64, 64)), Image.new("RGB", (64, 64), "lime")]
    options = {"lossless": True} if kind == "webp" else {}
    moving = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    path = make_tar([(f"a.{kind}", moving), ("a.txt", b"a"), ("b.png", encode(frames[1])), ("b.txt", b"b")])
    first, _ = read(make_dataset(path, transform=ImageTransform(64)))
    levels = first["x"].permute(1, 2, 0).float().numpy()
    assert np.abs(levels - np.asarray(frames[0])).mean() < (8 if kind == "gif" else 0.5)
    replaced, _ = read(make_dataset(path, animated="refuse"))
    assert replaced["key"] == "b"
    told = json.loads(replaced["bad"])
    assert (told["key"], told["detail"]) == ("a", "has several frames, and data.animated=refuse is set")


def test_all_exif_orientations(photo, shown, make_tar, make_dataset):
    """Applied once, as Pillow's own function does it; buckets are chosen by the size of the image held upright."""
    wide = photo.crop((0, 0, 256, 160))
    members = []
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encode(wide, "jpeg", exif=exif, quality=98, subsampling=0)
        upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
        members += [(f"{orientation}.jpg", data), (f"{orientation}.txt", b"")]
        path = make_tar(members[-2:])
        dataset = make_dataset(path)
        assert dataset.sizes().tolist() == [list(upright.size)]
        square = ImageOps.fit(upright, (160, 160), centering=(0.5, 0.5))
        found = shown(encode(square, "png"), "png")
        assert np.abs(found - shown(data, "jpg")).mean() < 2, orientation
    order_spec = OrderSpec(partial(Order, seed=0), ratios=AspectRatios(2, 2), image_size=8)
    buckets = DataModule(make_dataset(make_tar(members)), order_spec, batch_size=4).facts["buckets"]
    assert buckets == {"6x10": 4, "10x6": 4}


def _bomb(side: int = 12_000) -> bytes:
    """A PNG of a few hundred kB that unpacks to hundreds of MB."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    packer = zlib.compressobj()
    rows = packer.compress(bytes(3 * side + 1) * 10)
    first, again = (
        part + packer.flush(zlib.Z_FULL_FLUSH) for part in (rows, packer.compress(bytes(3 * side + 1) * 10))
    )
    body = first + again * (side // 10 - 1) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


MEASURE = """
import resource, sys, time
from diffusion_train.data.order.order_spec import OrderSpec
from diffusion_train.data.image.decode import ImageError, decode_image
from diffusion_train.data.shard.scan import build_index
path, image = sys.argv[1:]
data = open(image, "rb").read()
build_index(path)
before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
build_index(path)
try:
    decode_image(data)
except ImageError as error:
    print(time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, error, sep="|")
"""


@pytest.mark.slow
def test_a_decompression_bomb(make_tar, make_png, make_dataset, pairs, tmp_path):
    """Measured in a process of its own, whose memory has never been larger."""
    bomb = _bomb()
    (tmp_path / "bomb.png").write_bytes(bomb)
    path = make_tar([("a.png", bomb), ("a.txt", b"a"), ("b.png", make_png(0)), ("b.txt", b"b")])
    command = [sys.executable, "-c", MEASURE, str(path), str(tmp_path / "bomb.png")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    seconds, kilobytes, reason = done.stdout.strip().split("|")
    assert float(seconds) < 0.05
    assert int(kilobytes) < 50_000
    assert reason == f"12000 x 12000 pixels, more than {MAX_PIXELS} in total"
    with pytest.raises(DataError, match=rf"sample 'a': the image has more than {MAX_PIXELS} pixels"):
        make_dataset(path)
    assert {key for key, _, _ in pairs(make_dataset(path, faults="tolerant"))} == {"b"}


def test_tiny_and_narrow_images(make_tar, make_png, make_dataset, read, caplog):
    sizes = {"dot": (1, 1), "line": (1, 5000), "good": (40, 30)}
    members = [(f"{key}.png", make_png(0, *size)) for key, size in sizes.items()]
    path = make_tar(members + [(f"{key}.txt", b"") for key in sizes])
    assert [sample["bad"] for sample in read(make_dataset(path))] == [""] * 3
    dataset = make_dataset(path, min_side=2, max_aspect=4)
    assert [sample["key"] for sample in read(dataset)] == ["good"]
    assert dataset.facts["left_out"] == {"a side below data.min_side=2": 2}
    assert make_dataset(path, max_aspect=4).facts["left_out"] == {"an aspect ratio above data.max_aspect=4": 1}
    assert "2 of 3 samples are left out: a side below data.min_side=2" in caplog.text
