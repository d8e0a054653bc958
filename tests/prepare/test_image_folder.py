"""A folder of images becomes shards once, and again when a file of it changes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from diffusion_train.data.shard.catalog_builder import open_shards
from diffusion_train.prepare.image_folder import ImageFolder

pytestmark = pytest.mark.usefixtures("private_cache")


@pytest.fixture
def photos(tmp_path: Path, make_png) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.png").write_bytes(make_png(number))
    (folder / "1.txt").write_text("a cat")
    (folder / "notes.md").write_text("none")
    (folder / "torn.png").write_bytes(make_png(9)[:40])
    return folder


def test_it_is_prepared_once_and_says_what_it_left_out(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards = list(ImageFolder(str(photos)))
    told = capsys.readouterr().err
    assert len(open_shards(shards)) == 3
    assert "preparing its images once, in" in told
    assert "3 images, 1 of them with a caption" in told
    assert "left out:\n" in told
    assert "    1 undecodable: a file that is damaged or not an image; first 'torn.png' (" in told
    assert list(ImageFolder(str(photos))) == shards
    assert capsys.readouterr().err == ""


def test_settings_that_a_reason_names_are_those_of_prepare(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = (
        f"source.* and prepare.* are settings of: diffusion-train prepare source=folder path={photos} out=<folder>"
    )
    list(ImageFolder(str(photos)))
    assert command not in capsys.readouterr().err
    (photos / "2.txt").write_bytes(b"caf\xe9")
    list(ImageFolder(str(photos)))
    told = capsys.readouterr().err
    assert "1 not-utf8: a caption that is not UTF-8; source.encoding names" in told
    assert command in told


def test_a_changed_file_makes_other_shards(photos: Path, make_png) -> None:
    before = list(ImageFolder(str(photos)))
    os.utime(photos / "0.png", ns=(1, 1))
    assert list(ImageFolder(str(photos))) != before


def test_a_home_is_expanded(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(photos.parent))
    assert list(ImageFolder("~/photos")) == list(ImageFolder(str(photos)))


@pytest.mark.parametrize(
    ("name", "said"), [("nowhere", "no such folder"), ("photos/0.png", "is a file"), ("empty", "contains no image")]
)
def test_what_is_no_folder_of_images_is_refused(photos: Path, name: str, said: str) -> None:
    (photos.parent / "empty").mkdir()
    with pytest.raises(ValueError, match=rf"data\.folder=.*: {said}"):
        list(ImageFolder(str(photos.parent / name)))
