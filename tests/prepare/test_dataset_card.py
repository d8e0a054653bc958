from __future__ import annotations

import numpy as np
import pytest
import yaml

from diffusion_train.metric.near_duplicates import SIGNATURE
from diffusion_train.prepare.dataset_card import Tokens, make_card, readme, summary
from diffusion_train.prepare.ledger import Details, Done
from diffusion_train.prepare.shard_sample import Measures
from diffusion_train.prepare.source.base import LeftOut

DONE = [Done("images-000000.tar", 2048, 4, 1, 9), Done(None, 0, 0, 1, 10)]


def measures(key, caption, width=100, height=50, license="MIT", bits=0, **others):
    signature = np.zeros((), SIGNATURE)
    signature["hash"] = bits
    plain = dict.fromkeys(
        ("is_animated", "is_transparent", "is_rotated", "was_shrunk", "is_blank", "has_author", "has_source"), False
    )
    given = {"format": "jpg", "profile_use": "", "converted": "", "license_expires": ""}
    given["signature"] = signature.tobytes().hex()
    return Measures(key=key, caption=caption, width=width, height=height, license=license, **plain | given | others)


@pytest.fixture
def card():
    samples = [
        measures("a", "one two", bits=0),
        measures("b", "one two three", 30, 60, "CC-BY-NC-SA-4.0", bits=3, profile_use="converted", converted="heif"),
        measures("c", "", license="unknown", bits=2**63 - 1, is_transparent=True, profile_use="ignored"),
        measures(
            "d", "caf\ufffd " * 90, 2048, 2048, "see <b>LICENSE</b>", bits=0xFFFF0000, format="png", has_author=True
        ),
    ]
    left_out = [("x", "no-caption", "", 1), ("y", "not-downloaded", "404", 5)]
    tokens = Tokens("MiniLM", 2, lambda captions: [len(caption.split()) for caption in captions])
    return make_card({"settings": {"source": "folder", "n.x": 1}}, DONE, [Details(samples, left_out)], tokens)


def test_counts_sizes_and_spreads(card):
    assert card["num_samples"] == 4
    assert card["shards"] == {"images-000000.tar": {"samples": 4, "bytes": 2048}}
    images = card["images"]
    assert images["formats"] == {"jpg": 3, "png": 1}
    side = images["shorter_side"]
    assert (side["min"], side["median"], side["max"]) == (30, 50, 2048)
    assert {name: n for name, n in side["histogram"].items() if n} == {"below 32": 1, "32 to 63": 2, "2048 and more": 1}
    aspects = {name: n for name, n in images["aspect"]["histogram"].items() if n}
    assert aspects == {"0.5 to 0.67": 1, "0.8 to 1.25": 1, "2.0 and more": 2}
    assert (images["transparent"], images["profile_converted"], images["profile_ignored"]) == (1, 1, 1)


def test_captions_and_those_that_an_encoder_cuts(card):
    captions = card["captions"]
    assert (captions["empty"], captions["distinct"], captions["not_utf8"]) == (1, 4, 1)
    assert captions["words"]["max"] == 90
    assert captions["examples"] == ["one two", "one two three"]
    assert {**captions["tokens"], "min": 0, "median": 0} == {
        "encoder": "MiniLM",
        "most": 2,
        "longer": 2,
        "min": 0,
        "median": 0,
        "max": 90,
    }


def test_rights_by_licence_and_by_what_they_ask_for(card):
    rights = card["rights"]
    assert rights["licenses"] == {"MIT": 1, "CC-BY-NC-SA-4.0": 1, "unknown": 1, "see <b>LICENSE</b>": 1}
    assert rights["terms"] == {"share-alike": 1, "non-commercial": 1, "unknown": 1, "unread": 1}
    assert (rights["without_author"], rights["without_source"]) == (3, 4)


def test_near_duplicates_are_listed_by_their_keys(card):
    assert card["near_duplicates"]["largest"] == [["a", "b"]]


def test_what_was_left_out_is_counted(card):
    assert card["left_out"] == {"not-downloaded": 5, "no-caption": 1}
    assert LeftOut("no-caption").is_fault
    assert not LeftOut("not-downloaded").is_fault


def test_texts_of_strangers_mean_nothing_on_the_page(card):
    page = readme(card, "a_b <script>*x*\x1b[2J\n# head | cell")
    assert "\n# a_b &lt;script&gt;\\*x\\*\\\\x1b\\[2J\\\\n\\# head \\| cell\n" in page
    assert "see &lt;b&gt;LICENSE&lt;/b&gt;" in page
    assert "<b>" not in page
    assert not set("\x1b\u202e") & set(page)


def test_the_page_and_the_lines_tell_what_matters(card):
    page, lines = readme(card, "photos"), summary(card)
    for words in ("share-alike", "non-commercial", "unknown", "unread"):
        assert words in page
    for words in (
        "not-downloaded 5",
        "CC-BY-NC-SA-4.0 1",
        "share-alike 1, non-commercial 1, unknown 1, unread 1",
        "2 images in 1 group",
    ):
        assert words in lines
    assert "Captions longer than the 2 tokens that MiniLM takes: 2" in page
    assert "2 are longer than the 2 tokens that MiniLM takes" in lines
    assert "| n.x | 1 |" in page


def test_a_ratio_of_a_narrow_image_is_none_of_zero():
    samples = [measures("a", "x", 8, 2500), measures("b", "y", 4, 1000), measures("c", "z", 2000, 6)]
    made = make_card({"settings": {}}, DONE, [Details(samples, [])], None)
    assert "0.0032 to 333.33, median 0.004." in readme(made, "narrow")


@pytest.mark.parametrize(
    ("licenses", "name"),
    [
        (["MIT"], "mit"),
        (["CC-BY-SA-4.0"], "cc-by-sa-4.0"),
        (["GPL-3.0-or-later"], "gpl-3.0"),
        (["ODbL-1.0"], "odbl"),
        (["unknown"], "unknown"),
        (["CC-BY"], "other"),
        (["see: LICENSE\n---"], "other"),
        (["MIT", "CC0-1.0"], "other"),
    ],
)
def test_the_hub_reads_its_head(licenses, name):
    samples = [measures(str(number), "x", license=license) for number, license in enumerate(licenses)]
    page = readme(make_card({"settings": {}}, DONE, [Details(samples, [])], None), "a: <b>\n---\n'\"")
    assert page.startswith("---\n")
    assert yaml.safe_load(page.split("\n---\n")[0]) == {
        "pretty_name": "a: <b>\n---\n'\"",
        "license": name,
        "task_categories": ["text-to-image"],
        "size_categories": ["n<1K"],
        "tags": ["webdataset", "diffusion_train"],
    }


@pytest.mark.parametrize(("count", "size"), [(999, "n<1K"), (1000, "1K<n<10K"), (123_456_789, "100M<n<1B")])
def test_the_hub_reads_how_many_images_there_are(card, count, size):
    assert f"size_categories: [{size}]\n" in readme(card | {"num_samples": count}, "photos")


def test_images_without_captions_are_for_another_task(card):
    page = readme(card | {"captions": card["captions"] | {"empty": 4}}, "photos")
    assert "task_categories: [unconditional-image-generation]\n" in page
