"""An entry is another once a file that it is read from is: what `prepare` knows its source again by."""

from __future__ import annotations

import json
import os

import pytest

from diffusion_train.prepare.source.base import STATE, Entry, LeftOut
from diffusion_train.prepare.source.folder import Folder
from diffusion_train.prepare.source.img2dataset import Img2dataset
from diffusion_train.prepare.source.parquet import Parquet
from diffusion_train.prepare.source.table import Csv

STATS = {"status_dict": {"success": 2, "timeout": 1}}
FILES = {
    "a.jpg": b"1",
    "a.txt": "an apple",
    "sub/b.jpg": b"2",
    "sub/b.jpg.json": {"license": "CC0-1.0"},
    "sub/c.jpg": b"3",
    "sub/captions.csv": "image,caption\nc.jpg,a cherry\n",
    "d.jpg": b"4",
}


def states(source) -> dict[str, bytes]:
    return {entry.name: entry.state() for entry in source.entries()}


def changed(source, path, content: bytes | None = None) -> set[str]:
    """Names of the entries that writing `path` again changes; only its time without content."""
    before = states(source())
    assert before == states(source())
    if content is None:
        facts = path.stat()
        os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns + 2_000_000_000))
    else:
        facts = path.stat()
        path.write_bytes(content)
        os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    after = states(source())
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


@pytest.mark.parametrize("content", [None, b"of another size"], ids=["time", "size"])
@pytest.mark.parametrize(
    ("file", "entry"),
    [
        ("a.jpg", "a.jpg"),
        ("a.txt", "a.jpg"),
        ("sub/b.jpg.json", "sub/b.jpg"),
        ("d.jpg", "d.jpg"),
    ],
)
def test_of_a_folder(write, file, entry, content):
    root = write(FILES)
    assert changed(lambda: Folder(str(root)), root / file, content) == {entry}


def test_a_table_of_a_folder_changes_what_it_names(write):
    root = write(FILES)
    longer = b"image,caption\nc.jpg,a sweet cherry\n"
    assert changed(lambda: Folder(str(root)), root / "sub/captions.csv", longer) == {"sub/c.jpg"}


def test_a_caption_that_appears_beside_its_image(write):
    root = write(FILES)
    before = states(Folder(str(root)))
    (root / "d.txt").write_text("a date")
    after = states(Folder(str(root)))
    assert {name for name in before if before[name] != after[name]} == {"d.jpg"}


@pytest.mark.parametrize(
    ("file", "names"), [("t.csv", {"t.csv line 2: a.jpg", "t.csv line 3: d.jpg"}), ("d.jpg", {"t.csv line 3: d.jpg"})]
)
def test_of_a_table(write, file, names):
    root = write(FILES | {"t.csv": "image,caption\na.jpg,x\nd.jpg,y\n"})
    assert changed(lambda: Csv(str(root / "t.csv")), root / file) == names


def test_of_archives_with_their_statistics(write, make_tar, tmp_path):
    root = write({"0_stats.json": STATS})
    for number, key in enumerate("ab"):
        make_tar([(f"{key}.jpg", b"1"), (f"{key}.txt", b"x")], f"photos/{number}.tar")

    def source() -> Img2dataset:
        return Img2dataset(str(root))

    assert changed(source, root / "1.tar") == {"1.tar: b"}
    more = json.dumps({"status_dict": {"timeout": 200}}).encode()
    assert changed(source, root / "0_stats.json", more) == {"0_stats.json"}


def test_of_parquet_files(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="the extra `parquet` is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    (tmp_path / "x.jpg").write_bytes(b"1")
    for name, images in (("a", [b"1", b"2"]), ("b", ["x.jpg"])):
        parquet.write_table(pyarrow.table({"jpg": images, "text": [""] * len(images)}), tmp_path / f"{name}.parquet")

    def source() -> Parquet:
        return Parquet(str(tmp_path))

    assert changed(source, tmp_path / "a.parquet") == {"a.parquet row 0", "a.parquet row 1"}
    assert changed(source, tmp_path / "b.parquet") == {"b.parquet row 0: x.jpg"}
    assert changed(source, tmp_path / "x.jpg") == {"b.parquet row 0: x.jpg"}
    read, skipped = ([entry.state() for entry in source().entries(skip)] for skip in (0, 3))
    assert read == skipped


def test_a_side_file_that_no_caption_comes_from_is_not_asked_for(write):
    root = write(FILES)
    assert changed(lambda: Folder(str(root), captions=["json"]), root / "a.txt", b"other") == set()


def test_a_file_that_is_gone_or_cannot_be_is_a_state_too(tmp_path):
    there = tmp_path / "a"
    there.write_bytes(b"")
    entries = [
        Entry("a", LeftOut("unreadable"), files=files) for files in ([], [there], [tmp_path / "b"], [tmp_path / "\0"])
    ]
    assert len({entry.state() for entry in entries}) == 4
    assert {len(entry.state()) for entry in entries} == {STATE}
