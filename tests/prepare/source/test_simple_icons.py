from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("simple_icons_pack")
pytest.importorskip("resvg_py")

from diffusion_train.prepare.source import simple_icons


def test_other_licences_than_the_collection_s_are_dropped_and_counted():
    icons, dropped = simple_icons.by_license()
    assert len(icons) + dropped.total() == 3467
    assert dropped.total() == 212
    assert dropped["CC-BY-NC-4.0"] == 4
    assert {icon.license for icon in icons} == {None, "CC0-1.0"}


def test_an_allowed_licence_is_kept():
    icons, dropped = simple_icons.by_license(["MIT"])
    assert sum(icon.license == "MIT" for icon in icons) == 29
    assert "MIT" not in dropped


def test_a_licence_that_no_icon_has_is_refused():
    with pytest.raises(ValueError, match=r"no icon has MIITT; use .*MIT"):
        simple_icons.by_license(["MIITT"])


def test_a_logo_has_its_brand_s_colour_on_white():
    entries = {entry.name: entry for entry in simple_icons.SimpleIcons(24).entries()}
    logo, white = (entries[name].read() for name in ("airbnb", "betterauth"))
    image = np.array(Image.open(io.BytesIO(logo.image))).astype(int)
    assert logo.caption == "the Airbnb logo"
    assert logo.facts["license"] == "CC0-1.0"
    assert logo.facts["source"].startswith("https://")
    colour = [int(logo.facts["colour"][i : i + 2], 16) for i in (0, 2, 4)]
    assert np.abs(image - colour).sum(-1).min() <= 3
    assert image.max() == 255
    assert white.facts["brand_colour"] == "FFFFFF"
    assert white.facts["colour"] == "000000"
    assert np.array(Image.open(io.BytesIO(white.image))).min() < 50


def test_as_a_source_every_icon_names_its_licence():
    source = simple_icons.SimpleIcons(24)
    assert len(list(source.entries())) == source.total() == 3467


def test_one_brands_family_is_told_by_the_first_word_of_its_titles():
    icons = simple_icons.all_icons()
    titles = [icon.title for icon in simple_icons.of_brand(icons, "google")]
    assert len(titles) > 20
    assert all(title.split()[0] == "Google" for title in titles)
    assert simple_icons.SimpleIcons(16, brand="Google").total() == len(titles)
    with pytest.raises(ValueError, match="brand=Goog: no icon"):
        simple_icons.of_brand(icons, "Goog")
