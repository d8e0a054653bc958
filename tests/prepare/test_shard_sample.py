"""What becomes of one entry, faults of images and captions as far as preparing meets them."""

from __future__ import annotations

import hashlib
import io
import json

import numpy as np
import pytest
from colour_profiles import ONLY_BLACK_INK, WIDE
from PIL import Image

from diffusion_train.data.image.decode import WHITE, decode_image
from diffusion_train.prepare.shard_sample import Made, Rules, make
from diffusion_train.prepare.source.base import Entry, LeftOut, Record, parse_metadata
from diffusion_train.rights.image_rights import Rights


def noise(width=40, height=30, mode="RGB"):
    shape = (height, width, len(mode)) if len(mode) > 1 else (height, width)
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8), mode)


def smooth(width, height):
    ramp = np.linspace(0, 255, width)[None, :, None] + np.zeros((height, 1, 3))
    return Image.fromarray(ramp.astype(np.uint8))


def saved(image, kind="PNG", **settings) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **settings)
    return out.getvalue()


def made(image=None, caption="a caption", facts=None, **rules):
    data = image if isinstance(image, bytes) else saved(image or noise())
    return make("k", Entry("k", lambda: Record(data, caption, facts or {})), Rules(**rules))


def left_out(*args, **kwargs):
    found = made(*args, **kwargs)
    assert isinstance(found, LeftOut)
    return found.reason


def image_of(result: Made) -> tuple[str, Image.Image]:
    kind = result.measures.format
    return kind, Image.open(io.BytesIO(result.sample[kind]))


@pytest.mark.parametrize(("kind", "extension"), [("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp"), ("GIF", "gif")])
def test_the_bytes_are_kept_and_named_by_what_they_are(kind, extension):
    data = saved(noise(), kind)
    result = made(data)
    assert result.sample[extension] == data
    assert (result.sample["__key__"], result.sample["txt"]) == ("k", "a caption")
    measures = result.measures
    assert (measures.format, measures.width, measures.height, measures.was_shrunk) == (extension, 40, 30, False)


def test_pictures_of_phones_that_hold_further_ones_are_jpeg():
    data = saved(noise(), "MPO", save_all=True, append_images=[noise()])
    assert Image.open(io.BytesIO(data)).format == "MPO"
    result = made(data)
    assert result.sample["jpg"] == data
    assert not result.measures.is_animated


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "undecodable"),
        (b"<html>", "undecodable"),
        (saved(noise(), "JPEG")[:400], "undecodable"),
        (saved(noise(), "PNG")[:-30], "undecodable"),
        (saved(noise(), "TIFF")[:200], "undecodable"),
        (b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"><use href="x.svg#a"/></svg>', "outside-reference"),
    ],
    ids=["empty", "html", "cut-jpeg", "cut-png", "cut-tiff", "svg-that-refers-outside"],
)
def test_what_is_no_whole_image_is_left_out(data, reason):
    assert left_out(data) == reason


def test_decompression_bomb():
    assert left_out(saved(Image.new("1", (12000, 12000)))) == "too-many-pixels"


def test_tiny_and_narrow_images():
    assert isinstance(made(noise(1, 1)), Made)
    assert left_out(noise(1, 1), min_side=2) == "too-small"
    assert left_out(noise(1, 500), max_aspect=3) == "too-narrow"
    assert isinstance(made(noise(60, 20), max_aspect=3), Made)


@pytest.mark.parametrize("caption", [None, "", " \n\t\u3000"])
def test_missing_and_blank_captions(caption):
    assert left_out(caption=caption) == "no-caption"
    assert made(caption=caption, missing_caption="empty").sample["txt"] == ""


def test_captions_that_are_no_utf8():
    """Bytes that could not be decoded, and lone surrogates, which JSON may hold."""
    assert left_out(caption="caf\udce9") == "not-utf8"
    assert made(caption="caf\ud800").sample["txt"] == "caf\ufffd"


def test_long_and_hostile_captions_stay_as_they_are():
    for caption in ("word " * 20_000 + "end", "<b>&\u202e\x1b[2J{0}%s\0"):
        assert made(caption=caption).sample["txt"] == caption


@pytest.mark.parametrize(
    "data", [b"[" * 100_000, b"{", b"[]", b"\x00", b'{"a": ' + b"1" * 5000 + b"}", b"{}" * (1 << 20)]
)
def test_malformed_metadata(data):
    result = make("k", Entry("k", lambda: Record(saved(noise()), "x", parse_metadata(data))), Rules())
    assert isinstance(result, LeftOut)
    assert result.reason == "bad-metadata"


def test_facts_are_json_with_rights_under_their_names():
    facts = {"License": "CC BY 4.0", "photographer": "Ada", "url": "https://x/1", "when": b"bytes", "nan": float("nan")}
    found = made(facts=facts).sample["json"]
    assert found == {
        "License": "CC BY 4.0",
        "photographer": "Ada",
        "url": "https://x/1",
        "nan": None,
        "license": "CC-BY-4.0",
        "author": "Ada",
        "source": "https://x/1",
    }
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_what_rights_said_before_is_kept():
    found = made(facts={"license": "http://creativecommons.org/licenses/by-sa/3.0/"}).sample["json"]
    assert found == {"license": "CC-BY-SA-3.0", "license_text": "http://creativecommons.org/licenses/by-sa/3.0/"}


def test_rights_of_the_whole_collection_stand_where_a_sample_says_nothing():
    rights = Rights(license="cc0", author="me")
    assert made(rights=rights).sample["json"] == {"license": "CC0-1.0", "author": "me"}
    assert made(rights=rights, facts={"licence": "MIT"}).sample["json"]["license"] == "MIT"
    assert "license" not in made(facts={"license": "unknown"}).sample["json"]


def test_licences_that_are_not_allowed_are_left_out():
    allowed = {"allowed_licenses": ["CC-BY"]}
    assert isinstance(made(facts={"license": "CC BY 3.0"}, **allowed), Made)
    assert left_out(facts={"license": "CC BY-NC 3.0"}, **allowed) == "licence"
    assert left_out(**allowed) == "licence"
    assert isinstance(made(allowed_licenses=["unknown"]), Made)
    assert left_out(b"not even an image", facts={"license": "MIT"}, **allowed) == "licence"


def test_large_images_are_shrunk_only_if_asked():
    data = saved(smooth(300, 150), "JPEG", quality=90)
    result = made(data, max_side=100)
    kind, image = image_of(result)
    assert (kind, image.size, result.measures.was_shrunk) == ("jpg", (100, 50), True)
    assert result.sample["json"]["original_size"] == [300, 150]
    wanted = np.asarray(smooth(300, 150).resize((100, 50), Image.Resampling.LANCZOS)).astype(int)
    assert np.abs(np.asarray(image.convert("RGB")) - wanted).mean() < 2
    assert made(data, max_side=300).sample["jpg"] == data


def test_a_shrunk_image_is_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved(smooth(300, 150), "JPEG", exif=exif)
    kept, shrunk = made(data), made(data, max_side=100)
    assert (kept.measures.width, kept.measures.height, kept.measures.is_rotated) == (150, 300, True)
    _, image = image_of(shrunk)
    assert image.size == (50, 100)
    assert image.getexif().get(0x0112, 1) == 1
    expected = decode_image(data).resize((50, 100), Image.Resampling.LANCZOS)
    assert np.abs(np.asarray(image).astype(int) - np.asarray(expected)).mean() < 2


def test_what_is_transparent_stays_so_when_shrunk():
    image = noise(200, 100, "RGBA")
    for kind in ("PNG", "WEBP"):
        name, small = image_of(made(saved(image, kind), max_side=50))
        assert (name, small.mode, small.size) == ("png", "RGBA", (50, 25))


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        (Image.fromarray(np.full((100, 200), 128 * 257, np.uint16)), "png"),
        (smooth(200, 100).convert("P"), "png"),
        (smooth(200, 100).convert("L"), "png"),
        (smooth(200, 100).convert("CMYK"), "jpg"),
    ],
    ids=["16-bit", "palette", "grey", "cmyk"],
)
def test_other_kinds_of_pixels_look_the_same_when_shrunk(image, kind):
    data = saved(image, "JPEG" if kind == "jpg" else "PNG")
    name, small = image_of(made(data, max_side=50))
    assert (name, small.size) == (kind, (50, 25))
    expected = decode_image(data).resize((50, 25), Image.Resampling.LANCZOS)
    assert np.abs(np.asarray(small.convert("RGB")).astype(int) - np.asarray(expected)).mean() < 2


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "CMYK"])
@pytest.mark.parametrize(("icc", "use"), [(WIDE, "converted"), (ONLY_BLACK_INK, "ignored"), (None, "")])
def test_a_shrunk_image_is_srgb_and_has_no_profile(mode, icc, use):
    image = Image.new(mode, (200, 100), {"RGB": (20, 150, 90), "RGBA": (20, 150, 90, 128)}.get(mode, (250, 80, 9, 0)))
    data = saved(image, "JPEG" if mode == "CMYK" else "PNG", icc_profile=icc)
    result = made(data, max_side=50)
    _, small = image_of(result)
    assert "icc_profile" not in small.info
    assert small.mode == ("RGB" if mode == "CMYK" else mode)
    expected = decode_image(data, background=None if mode == "RGBA" else WHITE).resize((50, 25))
    assert np.abs(np.asarray(small).astype(int) - np.asarray(expected)).max() <= 2
    if mode == "CMYK":
        use = {WIDE: "ignored", ONLY_BLACK_INK: "converted"}.get(icc, "")
    assert result.measures.profile_use == use


def test_an_animation_gives_its_first_frame_when_shrunk():
    data = saved(smooth(200, 100), "GIF", save_all=True, append_images=[noise(200, 100)])
    assert made(data).measures.is_animated
    kind, small = image_of(made(data, max_side=50))
    assert kind == "png"
    assert not getattr(small, "is_animated", False)


def test_a_converted_image_names_what_it_was():
    data = saved(noise(), "TIFF")
    result = made(data, facts={"file": "scan.tif"})
    kind, image = image_of(result)
    assert (kind, result.measures.converted, result.measures.was_shrunk) == ("png", "tiff", False)
    assert image.tobytes() == noise().tobytes()
    expected = {"file": "scan.tif", "original_format": "tiff", "original_sha256": hashlib.sha256(data).hexdigest()}
    assert result.sample["json"] == expected


def test_a_drawing_has_the_side_that_is_asked_for():
    data = b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 4 2"><rect width="2" height="2"/></svg>'
    sizes = [
        (made(data, **rules).measures.width, made(data, **rules).measures.height) for rules in ({}, {"svg_side": 64})
    ]
    assert sizes == [(1024, 512), (64, 32)]
    small = made(data, max_side=100, min_side=50).measures
    assert (small.width, small.height, small.was_shrunk, small.is_transparent) == (100, 50, False, True)


def test_a_white_logo_on_transparency_is_counted_as_blank():
    logo = Image.new("RGBA", (40, 40))
    logo.paste((255, 255, 255, 255), (10, 10, 30, 30))
    assert made(logo).measures.is_blank
    assert not made(Image.new("RGB", (40, 40), "white")).measures.is_blank


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"License": "Getty", "valid_until": "31.12.2001"}, "expired-license"),
        ({"license": "own", "expires": "soon"}, "expired-license"),
        ({"license": "own", "people": True, "model_release": "no"}, "missing-release"),
    ],
)
def test_rights_that_do_not_hold_are_left_out_unless_asked_for(facts, reason):
    assert left_out(facts=facts) == reason
    assert isinstance(made(facts=facts, invalid_rights="keep"), Made)


def test_owner_and_last_day_stand_under_their_names():
    facts = {"license": "© 2024 ACME GmbH", "expires": "31.12.2999", "release": "MR-7", "persons": 2}
    found = made(facts=facts).sample["json"]
    assert found == facts | {
        "license": "LicenseRef-Proprietary",
        "license_text": "© 2024 ACME GmbH",
        "owner": "ACME GmbH",
        "license_expires": "2999-12-31",
        "people": "2",
        "model_release": "MR-7",
    }
    assert made(rights=Rights(owner="me")).sample["json"] == {"owner": "me"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rights": Rights(license_expires="soon")}, "prepare.license_expires='soon' is not a date"),
        ({"svg_side": 9000, "invalid_rights": "ask"}, "invalid_rights=ask.*\n.*svg_side=9000"),
        ({"missing_caption": "error"}, "one of drop, empty"),
        ({"min_side": 0, "max_aspect": 0.5}, "min_side=0.*\n.*max_aspect=0.5"),
        ({"max_side": 100, "min_side": 200}, "max_side=100"),
    ],
)
def test_impossible_rules_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Rules(**settings)
