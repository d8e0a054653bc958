from __future__ import annotations

import json
import os
import re
import shlex
import unicodedata

import pytest
import torch
from PIL import Image

from diffusion_train.command.sample import write as write_samples
from diffusion_train.config.command_line.arguments import parse
from diffusion_train.picture import save_png
from diffusion_train.prepare.source.base import LeftOut
from diffusion_train.prepare.source.folder import Folder
from diffusion_train.prepare.source.table import Columns
from diffusion_train.rights.image_rights import rights_of
from diffusion_train.utils.text import is_damaged


def reasons(found):
    return {name: (fault.reason, fault.detail) for name, fault in found.items() if isinstance(fault, LeftOut)}


def test_captions_stand_beside_images(write, read):
    files = {
        "a.jpg": b"1",
        "a.txt": "from txt",
        "b.JPG": b"2",
        "b.JPG.txt": "beside the whole name",
        "c/d.png": b"3",
        "c/d.json": {"caption": "from json", "license": "mit"},
    }
    found = read(Folder(write(files)))
    assert {name: (r.image, r.caption) for name, r in found.items()} == {
        "a": (b"1", "from txt"),
        "b": (b"2", "beside the whole name"),
        "c/d": (b"3", "from json"),
    }
    assert found["c/d"].facts == {"caption": "from json", "license": "mit", "file": "c/d.png"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("captions.csv", 'file_name,text,licence\nx/a.jpg,"a red, ripe apple",CC0\n'),
        ("captions.csv", "file_name;text;licence\r\nx/a.jpg;a red, ripe apple;CC0\r\n"),
        ("metadata.tsv", "image\tcaption\tlicence\n./x/a.jpg\ta red, ripe apple\tCC0\n"),
        ("x/metadata.jsonl", '\n{"file_name": "a.jpg", "text": "a red, ripe apple", "licence": "CC0"}\n'),
        ("x/Metadata.CSV", '\ufefffile_name,caption,licence\n"a.jpg","a red, ripe apple",CC0'),
    ],
)
def test_captions_stand_in_a_table_of_any_folder(write, read, name, text):
    (record,) = read(Folder(write({"x/a.jpg": b"1", name: text}))).values()
    assert record.caption == "a red, ripe apple"
    assert record.facts["licence"] == "CC0"


def test_an_empty_cell_says_nothing_and_two_licences_both_hold(write, read):
    rights = {"license": "CC-BY-NC-4.0", "author": "Jane", "source": "https://x.org/1"}
    table = "file_name,license,author,source\na.jpg,,,\nb.jpg,CC0,Joe,\nc.jpg,CC BY-NC 4.0,,\n"
    files = {f"{name}.jpg": b"1" for name in "abc"} | {f"{name}.json": rights for name in "abc"}
    found = read(Folder(write({**files, "metadata.csv": table})))
    assert {name: rights_of(record.facts)[:3] for name, record in found.items()} == {
        "a": ("CC-BY-NC-4.0", "Jane", "https://x.org/1"),
        "b": ("CC-BY-NC-4.0 AND CC0-1.0", "Joe", "https://x.org/1"),
        "c": ("CC-BY-NC-4.0", "Jane", "https://x.org/1"),
    }


def test_endings_in_capitals(write, read):
    found = read(Folder(write({"A.JPG": b"1", "A.TXT": "said", "b.jpg": b"2", "b.JSON": {"caption": "too"}})))
    assert {name: record.caption for name, record in found.items()} == {"A": "said", "b": "too"}


def test_the_first_place_that_has_a_caption_wins(write, read):
    files = {"a.jpg": b"", "a.txt": " \n", "a.json": {"text": "json"}, "captions.csv": "image,caption\na.jpg,table\n"}
    root = write(files)
    assert read(Folder(root))["a"].caption == "table"
    assert read(Folder(root, captions=["json", "table"]))["a"].caption == "json"
    assert read(Folder(root, captions=["txt"]))["a"].caption is None


def test_the_file_name_is_a_caption_only_if_asked(write, read):
    root = write({"x/a_red_apple.jpg": b""})
    assert read(Folder(root))["x/a_red_apple"].caption is None
    assert read(Folder(root, captions=["txt", "name"]))["x/a_red_apple"].caption == "a red apple"


def test_a_caption_field_can_be_named(write, read):
    root = write({"a.jpg": b"", "a.json": {"alt": "this", "caption": "not this"}})
    assert read(Folder(root, columns=Columns(caption="alt")))["a"].caption == "this"
    root = write({"b.jpg": b"", "b.json": {"captions": ["first", "second"]}}, "more")
    assert read(Folder(root))["b"].caption == "first"


def test_captions_as_kohya_keeps_them(write, read):
    files = {
        "a.png": b"1",
        "a.caption": "a cat\n",
        "b.png": b"2",
        "b.caption": "no",
        "b.txt": "yes",
        "c.caption": "lost",
    }
    root = write(files)
    found = read(Folder(root))
    assert (found["a"].caption, found["b"].caption, found["c.caption"].detail) == (
        "a cat",
        "yes",
        "no image of this name",
    )
    assert read(Folder(root, captions=["caption", "txt"]))["b"].caption == "no"
    before = [entry.state() for entry in Folder(root).entries()]
    (root / "a.caption").write_text("another cat")
    assert [entry.state() for entry in Folder(root).entries()] != before


def test_repeats_of_kohya_are_offered_as_commands(write):
    root = write({"10_a dog/a.png": b"1", "1_reg/b.png": b"1", "2_empty/c.txt": "x", "other/d.png": b"1"}, "my images")
    first, second, train = map(shlex.split, Folder(str(root)).repeats().splitlines()[1:])
    values = [[override.value() for override in parse(words[2:])[0]] for words in (first, second, train)]
    assert values[0] == [str(root / "10_a dog"), "prepared_a_dog"]
    assert values[1] == [str(root / "1_reg"), "prepared_reg"]
    shards, repeats = values[2]
    assert shards == {"reg": "prepared_reg/*.tar", "a_dog": "prepared_a_dog/*.tar"}
    assert repeats == {"reg": 1, "a_dog": 10}
    assert Folder(str(root / "10_a dog")).repeats() == ""


@pytest.mark.parametrize("kind", ["txt", "caption", "json", "csv", "jsonl"])
def test_the_encoding_of_captions_can_be_named(write, read, kind):
    texts = {
        "json": '{"caption": "Grüße – bald"}',
        "csv": "image,caption\na.png,Grüße – bald\n",
        "jsonl": '{"image": "a.png", "caption": "Grüße – bald"}\n',
    }
    name = "a" if kind not in ("csv", "jsonl") else "captions"
    data = texts.get(kind, "Grüße – bald").encode("cp1252")
    root = write({"a.png": b"1", f"{name}.{kind}": data})
    assert read(Folder(root, encoding="cp1252"))["a"].caption == "Grüße – bald"
    assert is_damaged(read(Folder(root))["a"].caption)
    with pytest.raises(ValueError, match=r"source\.encoding=ansi2: unknown"):
        Folder(root, encoding="ansi2")


@pytest.mark.parametrize(
    ("value", "caption"), [(7, "7"), (3.0, "3"), (None, None), (float("nan"), None), (["", "x"], "x")]
)
def test_values_that_are_captions_or_none(write, read, value, caption):
    table = json.dumps({"file_name": "a.png", "text": value})
    assert read(Folder(write({"a.png": b"1", "metadata.jsonl": table})))["a"].caption == caption
    assert read(Folder(write({"b.png": b"1", "b.json": json.dumps({"text": value})}, "json")))["b"].caption == caption


@pytest.mark.parametrize("value", [True, False, 0.5, float("inf"), {"en": "x"}, [True]])
def test_values_that_are_no_captions_are_refused_by_name(write, read, value):
    table = json.dumps({"file_name": "a.png", "text": value})
    files = {"a.png": b"1", "metadata.jsonl": table, "b.png": b"1", "b.json": json.dumps({"text": value})}
    found = reasons(read(Folder(write(files))))
    assert found["a"] == found["b"]
    assert found["a"][0] == "bad-caption"
    assert re.search("got (true|false|0.5|Infinity|a value of type dict)", found["a"][1])


def test_in_csv_only_an_empty_cell_is_no_caption(write, read):
    table = "image,caption\na.png,nan\nb.png,\nc.png,true\nd.png,1.5\n"
    found = read(Folder(write({**{f"{name}.png": b"1" for name in "abcd"}, "metadata.csv": table})))
    assert {name: record.caption for name, record in found.items()} == {"a": "nan", "b": None, "c": "true", "d": "1.5"}


def test_nothing_is_passed_over_in_silence(write, read):
    files = {
        "a.jpg": b"1",
        "drawing.PSD": b"",
        "b.txt": "an image of this name is missing",
        "film.mp4": b"",
        "c.png": b"",
        "c.json": "[1, 2",
        "d.png": b"",
        "d.json": [1],
        "captions.csv": "image,caption\na.jpg,one\ngone.jpg,lost\na.jpg,again\nc.png,unquoted, comma\n",
        ".hidden.jpg": b"",
        ".git/x.jpg": b"",
        "@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg": b"",
        "__MACOSX/a.jpg": b"",
    }
    found = reasons(read(Folder(write(files))))
    assert found.pop("c")[0] == "bad-metadata"
    assert found.pop("d") == ("bad-metadata", "must be an object, got a list")
    assert found.pop("drawing.PSD")[0] == "unknown-format"
    assert found == {
        "b.txt": ("not-a-sample", "no image of this name"),
        "film.mp4": ("not-a-sample", ""),
        "captions.csv line 3": ("no-image", "gone.jpg does not exist"),
        "captions.csv line 4": ("named-twice", "a.jpg is listed twice, first in captions.csv line 2"),
        "captions.csv line 5": (
            "bad-row",
            "3 fields, but the header has 2; put text that contains the separator in quotes",
        ),
    }


def test_links_are_followed_each_once(write, read):
    root = write({"a/x.jpg": b"1"})
    elsewhere = write({"y.jpg": b"2"}, "elsewhere")
    (root / "a" / "circle").symlink_to(root)
    (root / "b").symlink_to(elsewhere)
    (root / "dangling.jpg").symlink_to(root / "nothing")
    found = read(Folder(root))
    assert set(found) == {"a/x", "b/y", "dangling"}
    assert found["dangling"].reason == "unreadable"


def test_a_pipe_is_not_waited_for(write, read):
    root = write({"a.jpg": b""})
    os.mkfifo(root / "b.jpg")
    assert read(Folder(root))["b"].reason == "unreadable"


def test_the_folder_for_the_shards_is_not_looked_into(write, read):
    root = write({"a.jpg": b"", "shards/images-000000.tar": b"", "shards/b.jpg": b""})
    assert set(read(Folder(root, ignore=str(root / "shards")))) == {"a"}


def test_paths_with_spaces_unicode_and_equals_signs(write, read):
    folder = "mit Leer zeichen/k=v/{x}/" + unicodedata.normalize("NFD", "é")
    table = f"file_name,text\n{unicodedata.normalize('NFC', folder)}/ä.jpg,caption\n"
    found = read(Folder(write({f"{folder}/ä.jpg": b"", "metadata.csv": table}, "a = b, ç")))
    assert [(record.caption, record.facts["file"]) for record in found.values()] == [("caption", f"{folder}/ä.jpg")]


def test_names_that_are_no_utf8(write, read):
    root = write({"a.jpg": b""})
    with open(os.fsencode(root) + b"/b\xff.jpg", "wb") as file:
        file.write(b"2")
    assert read(Folder(root))["b\udcff"].image == b"2"


def test_the_order_is_that_of_folders_and_names(write):
    files = dict.fromkeys(("b/x.jpg", "a/z.jpg", "a/y.png", "z.jpg", "B.jpg"), b"")
    assert [entry.key for entry in Folder(write(files)).entries()] == ["B", "z", "a/y", "a/z", "b/x"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"path": "nowhere"}, "no such folder"),
        ({"captions": ["text"]}, "must be among txt, caption, table, json, name, prompt, got text"),
        (
            {"columns": Columns(caption="titel")},
            r"caption=titel: no such column\n.*captions.csv: image, title",
        ),
    ],
)
def test_mistakes_are_told_before_anything_is_read(write, settings, message):
    root = write({"a.jpg": b"", "captions.csv": "image,title\na.jpg,x\n"})
    with pytest.raises(ValueError, match=message):
        Folder(**{"path": str(root)} | settings)


def test_the_prompt_of_a_drawn_image_is_a_caption_only_if_asked(write, read, tmp_path):
    root = write({"x.jpg": b"no PNG", "y.png": b"no PNG either"})
    save_png(Image.new("RGB", (2, 2)), root / "drawn.png", {"prompt": "a café\nby night", "seed": "3"})
    save_png(Image.new("RGB", (2, 2)), root / "other.png", {"run": "x"})
    captions = {name: record.caption for name, record in read(Folder(root, captions=["prompt"])).items()}
    assert captions == {"drawn": "a café\nby night", "other": None, "x": None, "y": None}
    assert read(Folder(root))["drawn"].caption is None


@pytest.mark.parametrize("captions", [["prompt"], ["name"]])
def test_the_grid_that_sample_py_lays_beside_its_samples_is_no_sample_and_no_fault(read, tmp_path, captions):
    facts = {"run": "x", "weights": "0123", "sampler": "DDIM", "guidance": "NoGuidance"}
    write_samples(torch.zeros(2, 3, 8, 8), [("a dog", 0), ("a dog", 1)], 2, facts, tmp_path)
    found = read(Folder(str(tmp_path), captions=captions))
    assert reasons(found) == {"grid": ("not-a-sample", "a grid of samples by sample.py")}
    assert not found["grid"].is_fault
    assert sorted(found) == ["0000_000", "0000_001", "grid"]
