"""A folder as a designer hands it over: many formats, mixed rights, and names that do not quite fit the table."""

from __future__ import annotations

import csv
import json
import tarfile
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from diffusion_train.command import cli
from diffusion_train.utils.exit_code import Exit

COLUMNS = ("file_name", "text", "license", "owner", "license_expires", "people", "model_release")
ROWS = {
    "a.heic": ("a red shoe", "CC-BY-4.0", "", "", "", ""),
    "b.avif": ("a green shoe", "own work", "", "", "no", ""),
    "c.TIF": ("a blue shoe", "(c) 2024 ACME", "", "", "", ""),
    "d.bmp": ("a shoe on a road", "Getty Images", "ACME", "2001-01-01", "", ""),
    "e.jpg": ("a runner", "proprietary", "", "2999-01-01", "yes", ""),
    "f.jpg": ("another runner", "Adobe Stock", "", "31.12.2999", "yes", "MR-17"),
    "g.svg": ("a circle", "LicenseRef-ACME-1", "", "", "", ""),
    "h.svg": ("a trap", "own", "", "", "", ""),
    "i.png": ("a white logo", "own", "", "", "", ""),
    "J.PNG": ("a name in another case", "own", "", "", "", ""),
    "k": ("a name without ending", "own", "", "", "", ""),
}


def picture(number: int, mode: str = "RGB") -> Image.Image:
    noise = np.random.default_rng(number).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((320, 300), Image.Resampling.BICUBIC).convert(mode)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "brand"
    folder.mkdir()
    pillow_heif.from_pillow(picture(0)).save(folder / "a.heic")
    for number, name in enumerate(["b.avif", "c.TIF", "d.bmp", "e.jpg", "j.png", "k.png"], 1):
        picture(number).save(folder / name)
    picture(7, "CMYK").save(folder / "f.jpg")
    drawing = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9">{}</svg>'
    (folder / "g.svg").write_text(drawing.format('<circle cx="4" cy="4" r="3"/>'))
    (folder / "h.svg").write_text(drawing.format('<image href="file:///etc/hostname"/>'))
    logo = Image.new("RGBA", (300, 300))
    logo.paste((255, 255, 255, 255), (50, 50, 250, 250))
    logo.save(folder / "i.png")
    with (folder / "captions.csv").open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *((name, *cells) for name, cells in ROWS.items())])
    return folder


@pytest.mark.usefixtures("private_cache")
def test_a_folder_of_a_designer_is_prepared_and_checked(folder, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["prepare.num_workers=0", "prepare.max_bad_share=1", "prepare.max_side=310"]
    assert cli.main(["prepare", f"path={folder}", f"out={out}", *arguments]) == Exit.DONE
    left_out = {one["name"]: one for one in map(json.loads, (out / "left_out.jsonl").read_text().splitlines())}
    assert {name: one["reason"] for name, one in left_out.items()} == {
        "d.bmp": "expired-license",
        "e.jpg": "missing-release",
        "h.svg": "outside-reference",
        "j.png": "no-caption",
        "k.png": "no-caption",
        "captions.csv line 11": "no-image",
        "captions.csv line 12": "no-image",
    }
    assert "did you mean j.png?" in left_out["captions.csv line 11"]["detail"]
    assert "did you mean k.png?" in left_out["captions.csv line 12"]["detail"]
    with tarfile.open(out / "images-000000.tar") as shard:
        names = shard.getnames()
        facts = {name[0]: json.loads(shard.extractfile(name).read()) for name in names if name.endswith("json")}
    assert [name for name in names if not name.endswith(("txt", "json"))] == [
        "a.jpg", "b.jpg", "c.png", "f.jpg", "g.png", "i.png"
    ]  # fmt: skip
    assert [facts["c"][name] for name in ("license", "owner", "file", "original_format", "original_size")] == [
        "LicenseRef-Proprietary", "ACME", "c.TIF", "tiff", [320, 300]
    ]  # fmt: skip
    printed = capsys.readouterr().out
    assert "converted from heif 1, avif 1, tiff 1, svg 1" in printed
    assert "blank on white: 1, transparent" in printed
    assert printed.count("data.background=contrast") == 4

    command = ["check", f"data.shards={out / 'images-000000.tar'}", f"out={tmp_path / 'checked'}", "num_workers=0"]
    assert cli.main([*command, "ignore=[transparent-image,tiny-image]"]) == Exit.FOUND
    found = json.loads((tmp_path / "checked" / "report.json").read_text())
    assert {(one["rule"], one["key"]) for one in found} == {
        ("blank-image", "i"),
        ("stock-license", None),
        ("proprietary-license", None),
    }
