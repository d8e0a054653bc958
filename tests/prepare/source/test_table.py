from __future__ import annotations

import json

import pytest

from diffusion_train.prepare.source.base import LeftOut
from diffusion_train.prepare.source.table import Columns, Csv


def test_rows_name_files_captions_and_facts(write, read):
    table = "path,text,score,Lizenz\nx/a.jpg,an apple,0.5,CC BY 4.0\nb.png,,1,\n"
    root = write({"list.csv": table, "x/a.jpg": b"1", "b.png": b"2"})
    found = read(Csv(str(root / "list.csv"), columns=Columns(license="Lizenz")))
    assert found["x/a"].caption == "an apple"
    assert found["x/a"].image == b"1"
    facts = {"file": "x/a.jpg", "score": "0.5", "Lizenz": "CC BY 4.0", "license": "CC BY 4.0"}
    assert found["x/a"].facts == facts
    assert found["b"].caption == ""


def test_images_may_lie_elsewhere_and_keys_in_a_column(write, read):
    images = write({"a.jpg": b"1"}, "images")
    table = write({"t.jsonl": '{"image": "a.jpg", "caption": "x", "id": 7}\n'}, "tables") / "t.jsonl"
    found = read(Csv(str(table), images=str(images), columns=Columns(key="id")))
    assert found["7"].image == b"1"
    absolute = write({"t.csv": f"image,caption\n{images}/a.jpg,x\n"}, "tables") / "t.csv"
    assert [record.image for record in read(Csv(str(absolute))).values()] == [b"1"]


def test_of_several_captions_the_first_is_taken_and_all_are_kept(write, read):
    lists = [["", "a 1", "b 1"], [], [5], {"text": "x"}]
    lines = [json.dumps({"image": f"{number}.jpg", "text": text}) for number, text in enumerate(lists)]
    files = {"t.jsonl": "\n".join(lines), **{f"{number}.jpg": b"1" for number in range(len(lists))}}
    found = read(Csv(str(write(files) / "t.jsonl")))
    assert [found[number].caption for number in "012"] == ["a 1", None, "5"]
    assert found["3"].reason == "bad-caption"
    assert found["0"].facts["text"] == ["", "a 1", "b 1"]


def test_columns_of_one_name_are_refused(write):
    with pytest.raises(ValueError, match="several columns called caption"):
        Csv(str(write({"t.csv": "image,caption,caption\na.jpg,x,y\n"}) / "t.csv"))


def test_rows_that_cannot_be_samples_are_counted(write, read):
    table = (
        "image,caption\nhttps://example.org/a.jpg,x\n,no image\n\ngone.jpg,x\na.jpg,with, comma\na.jpg\n"
        '"a\njpg",two lines\n'
    )
    found = read(Csv(str(write({"t.csv": table, "a.jpg": b""}) / "t.csv")))
    assert {name: fault.reason for name, fault in found.items() if isinstance(fault, LeftOut)} == {
        "t.csv line 2": "address",
        "t.csv line 3": "no-image",
        "gone": "no-image",
        "t.csv line 6": "bad-row",
        "t.csv line 7": "bad-row",
        "a\njpg": "no-image",
    }


@pytest.mark.parametrize("line", ["[" * 100_000, "{", "5", '{"a": ' + "1" * 5000 + "}", "\xff" * 3])
def test_malformed_json_lines(write, read, line):
    good = '{"image": "a.jpg", "caption": "x"}'
    found = read(Csv(str(write({"t.jsonl": f"{good}\n{line}\n", "a.jpg": b"1"}) / "t.jsonl")))
    assert found["a"].image == b"1"
    assert found["t.jsonl line 2"].reason == "bad-row"


def test_bytes_that_are_no_utf8_reach_the_file_and_the_caption(write, read):
    root = write({"t.csv": b"image,caption\n\xff.jpg,caf\xe9\n"})
    (root / "\udcff.jpg").write_bytes(b"1")
    (record,) = read(Csv(str(root / "t.csv"))).values()
    assert record.image == b"1"
    assert record.caption == "caf\udce9"
    (record,) = read(
        Csv(str(root / "t.csv"), encoding="latin-1", images=str(write({"ÿ.jpg": b"2"}, "images")))
    ).values()
    assert (record.image, record.caption) == (b"2", "café")


@pytest.mark.parametrize(
    ("files", "settings", "message"),
    [
        (
            {"t.csv": "a,b\n1,2\n"},
            {},
            r"no column for the image: .*\nno column for the caption: .*\nthe columns of .*: a, b",
        ),
        ({"t.csv": "image,b\n1,2\n"}, {}, 'give source.columns.caption=<its name>, or "" if there is none'),
        ({"t.csv": "image,caption\n1,2\n"}, {"columns": Columns(author="who")}, "author=who: no such column"),
        ({"t.csv": ""}, {}, "has no header"),
        ({"t.csv": "image,caption\n\n"}, {}, "the table has no rows"),
        ({"t.jsonl": "\n"}, {}, "the table has no rows"),
        ({"t.csv": 'image,caption\na.jpg,"open\nb.jpg,x\n'}, {}, "line 3: .*; is a quote not closed"),
        ({"t.xlsx": ""}, {}, "must end in .csv, .tsv, .jsonl"),
        ({}, {}, "no such file"),
    ],
)
def test_mistakes_are_told_before_anything_is_read(write, files, settings, message):
    path = write(files or {"other": ""}) / next(iter(files), "t.csv")
    with pytest.raises(ValueError, match=message):
        Csv(str(path), **settings).total()


def test_a_table_without_captions_can_be_asked_for(write, read):
    table = write({"t.csv": "image\na.jpg\n", "a.jpg": b"1"}) / "t.csv"
    assert read(Csv(str(table), columns=Columns(caption="")))["a"].caption is None
