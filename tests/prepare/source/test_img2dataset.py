from __future__ import annotations

import io
import json
import tarfile

import pytest

from diffusion_train.prepare.source.base import LeftOut
from diffusion_train.prepare.source.img2dataset import Img2dataset

STATS = {"count": 5, "successes": 2, "status_dict": {"success": 2, "HTTP Error 404: Not Found": 2, "timeout": 1}}


def facts(key):
    return {"url": f"https://example.org/{key}.jpg", "status": "success", "key": key, "LICENSE": "cc-by-4.0"}


def archive(members) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as file:
        for name, content in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return out.getvalue()


def members(key, caption="a caption"):
    return [
        (f"{key}.jpg", key.encode()),
        (f"{key}.json", json.dumps(facts(key)).encode()),
        (f"{key}.txt", caption.encode()),
    ]


def test_the_webdataset_format(write, read):
    tar = archive([*members("000000000"), *members("000000001", "another")])
    found = read(Img2dataset(str(write({"00000.tar": tar, "00000_stats.json": {}, "00000.parquet": b""}))))
    assert found["000000000"] == (b"000000000", "a caption", facts("000000000"))
    assert found["000000001"].caption == "another"


def test_failed_downloads_are_counted_by_their_reason(write):
    source = Img2dataset(str(write({"00000.tar": archive(members("000000000")), "00000_stats.json": STATS})))
    failed = [(e.read.reason, e.read.detail, e.read.count) for e in source.entries() if isinstance(e.read, LeftOut)]
    assert failed == [("not-downloaded", "HTTP Error 404: Not Found", 2), ("not-downloaded", "timeout", 1)]


def test_images_that_share_a_key_with_another_are_listed(write, read):
    tar = archive([*members("shoe"), ("shoe.v2.jpg", b"2"), ("shoe.v2.txt", b"second"), ("shoe.v3.tif", b"3")])
    found = read(Img2dataset(str(write({"00000.tar": tar}))))
    assert found["shoe"].image == b"shoe"
    assert [(name, found[name].reason) for name in list(found)[1:]] == [
        ("00000.tar: shoe.v2.jpg", "unused-image"),
        ("00000.tar: shoe.v3.tif", "unused-image"),
    ]


def test_the_files_format(write, read):
    key = "000000000"
    files = {f"00000/{key}.jpg": b"1", f"00000/{key}.txt": "a caption", f"00000/{key}.json": facts(key)}
    found = read(Img2dataset(str(write(files | {"00000.parquet": b"", "00000_stats.json": {"status_dict": {}}}))))
    assert list(found) == [f"00000/{key}"]
    assert found[f"00000/{key}"] == (b"1", "a caption", facts(key) | {"file": f"00000/{key}.jpg"})


def test_members_in_any_order_are_put_together(write, read):
    first, second = members("a"), members("b", "of b")
    tar = archive([first[2], second[0], first[0], second[2], second[1], first[1]])
    found = read(Img2dataset(str(write({"0.tar": tar}))))
    assert [(name, record.image, record.caption) for name, record in found.items()] == [
        ("a", b"a", "a caption"),
        ("b", b"b", "of b"),
    ]


def test_links_and_what_is_no_sample_are_counted(write, read):
    link, folder = tarfile.TarInfo("c.jpg"), tarfile.TarInfo("d")
    link.type, link.linkname, folder.type = tarfile.SYMTYPE, "/etc/passwd", tarfile.DIRTYPE
    tar = archive(
        [*members("a"), (link, b""), (folder, b""), ("a.jpg", b"again"), ("e.txt", b"x"), ("noextension", b"")]
    )
    found = read(Img2dataset(str(write({"0.tar": tar}))))
    assert found["a"].image == b"a"
    assert {name: fault.reason for name, fault in found.items() if name != "a"} == {
        "0.tar: c.jpg": "not-a-sample",
        "0.tar: d/": "not-a-sample",
        "0.tar: a.jpg": "named-twice",
        "0.tar: noextension": "not-a-sample",
        "e": "no-image",
    }


def test_wherever_a_tar_is_cut_every_pair_is_one_that_went_in(write, read):
    keys = ("a", "b", "c")
    whole = archive([member for key in keys for member in members(key, f"of {key}")])
    truth = {key: (key.encode(), f"of {key}", facts(key)) for key in keys}
    for cut in range(1, 9 * 1024 + 1):
        if cut % 512 not in (0, 1, 511):
            continue
        found = read(Img2dataset(str(write({"0.tar": whole[:cut]}))))
        faults = [fault.reason for fault in found.values() if isinstance(fault, LeftOut)]
        pairs = {name: record for name, record in found.items() if not isinstance(record, LeftOut)}
        assert pairs.items() <= truth.items(), cut
        assert faults == ["torn-shard"], cut
        assert len(pairs) >= cut // (3 * 1024) - 1, cut


def test_a_flipped_bit_never_makes_a_pair_that_was_none(write, read):
    keys = ("a", "b", "c")
    whole = archive([member for key in keys for member in members(key, f"of {key}")])
    truth = {key: (key.encode(), f"of {key}") for key in keys}
    for place in range(0, 9 * 1024, 13):
        if place % 1024 >= 512:
            continue  # in the contents, where only a checksum would tell
        torn = bytearray(whole)
        torn[place] ^= 4
        found = read(Img2dataset(str(write({"0.tar": bytes(torn)}))))
        pairs = {name: record[:2] for name, record in found.items() if not isinstance(record, LeftOut)}
        assert pairs.items() <= truth.items(), place
        assert len(pairs) == 3 or len(found) > len(pairs), place


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.jpg": b""}, "neither tars nor numbered folders"),
        ({"0.parquet": b""}, "for its parquet format use source=parquet"),
    ],
)
def test_other_folders_are_refused(write, files, message):
    with pytest.raises(ValueError, match=message):
        Img2dataset(str(write(files)))


def test_a_failed_status_is_left_out(write, read):
    tar = archive([("a.jpg", b"1"), ("a.json", json.dumps({"status": "failed", "error_message": "404"}).encode())])
    assert read(Img2dataset(str(write({"0.tar": tar}))))["a"].detail == "404"
