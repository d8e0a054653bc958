from __future__ import annotations

import time

import pytest

from diffusion_train.prepare.source.base import LeftOut
from diffusion_train.prepare.source.folder import Folder
from diffusion_train.prepare.source.misnamed import Names
from diffusion_train.prepare.source.table import Csv


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("IMG_1", "img_1.JPG"),
        ("img_1.jpg", "img_1.JPG"),
        ("img_1.png", "img_1.JPG"),
        ("sub/LOGO.svg", "sub/logo.svg"),
        ("v1.2", "v1.2.png"),
        ("shoe_rde.png", "shoe_red.png"),
        ("nothing.png", None),
    ],
)
def test_the_name_that_is_meant(name, meant):
    message = Names(["img_1.JPG", "sub/logo.svg", "v1.2.png", "shoe_red.png"]).missing(name)
    assert message == f"{name} does not exist" + (f"; did you mean {meant}?" if meant else "")


@pytest.mark.parametrize(("number", "ending"), [(20_000, ""), (500, "_")])
def test_a_large_table_of_wrong_names_takes_seconds(tmp_path, number, ending):
    for index in range(20 if ending else number):
        (tmp_path / f"photo_{index}.jpg").touch()
    rows = "".join(f"photo_{index}{ending}\n" for index in range(number))
    (tmp_path / "captions.csv").write_text(f"image\n{rows}")
    began = time.perf_counter()
    source = Folder(str(tmp_path))
    assert source.total() == len(list(source.entries()))
    assert time.perf_counter() - began < 30  # an index for each name took 70 ms a row


@pytest.mark.parametrize("kind", ["folder", "csv"])
def test_rows_of_tables_name_it(tmp_path, make_png, kind):
    (tmp_path / "Photo 1.PNG").write_bytes(make_png(0))
    table = tmp_path / "captions.csv"
    table.write_text("image,caption\nphoto 1,one\nphoto 1.png,two\n")
    source = Folder(str(tmp_path)) if kind == "folder" else Csv(str(table))
    found = []
    for entry in source.entries():
        try:
            raise entry.read if isinstance(entry.read, LeftOut) else LeftOut("read", str(entry.read()))
        except LeftOut as reason:
            found += [reason.detail] * (reason.reason == "no-image")
    assert found == [f"{name} does not exist; did you mean Photo 1.PNG?" for name in ("photo 1", "photo 1.png")]
