"""`diffusion-train check` on planted faults."""

from __future__ import annotations

import io
import json
import shutil
import subprocess

import pytest
from PIL import Image

from diffusion_train.command import cli
from diffusion_train.command.exit import Exit

RIGHTS = b'{"license": "CC0-1.0"}'


def encoded(mode="RGB", size=(20, 16), kind="png", **options):
    out = io.BytesIO()
    Image.new(mode, size).save(out, kind, **options)
    return out.getvalue()


def rotated():
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(kind="jpeg", exif=exif)


def sample(key, image, caption=b"a caption", facts=RIGHTS, kind="png"):
    return [(f"{key}.{kind}", image), (f"{key}.txt", caption), (f"{key}.json", facts)]


GOOD = sample("good", encoded())


def test_a_key_of_two_shards_and_a_licence_that_is_not_allowed(make_tar, tmp_path):
    shards = [make_tar(GOOD, "a.tar"), make_tar(GOOD, "b.tar")]
    code, report = check(tmp_path, shards, "data.allowed_licenses=[CC-BY]", "ignore=[tiny-image]")
    assert code == Exit.FOUND
    found = sorted((one["rule"], one["shard"]) for one in report)
    rights = [("license-not-allowed", str(shard)) for shard in shards]
    assert found == sorted([("duplicate-key", str(shards[1])), *rights])


def test_a_torn_shard_and_one_without_any_sample(make_tar, tmp_path):
    shard = make_tar([*GOOD, *sample("bad", encoded())])
    shard.write_bytes(shard.read_bytes()[:4200])
    assert "torn-shard" in {one["rule"] for one in check(tmp_path, [shard])[1]}
    page = tmp_path / "page.tar"
    page.write_bytes(b"<html>")
    code, report = check(tmp_path, [page])
    assert (code, [one["rule"] for one in report]) == (Exit.FOUND, ["not-a-tar"])


def test_a_clean_set_gives_nothing_and_a_wrong_path_is_a_wrong_setting(make_tar, make_png, tmp_path):
    members = [member for i in range(200) for member in sample(f"k{i}", make_png(i))]
    assert check(tmp_path, [make_tar(members)]) == (Exit.DONE, [])
    assert check(tmp_path, [tmp_path / "none.tar"])[0] == Exit.WRONG


def test_rules_can_be_left_out(make_tar, tmp_path):
    shard = make_tar(PLANTED["exif-rotation"])
    assert check(tmp_path, [shard], "ignore=[exif-rotation]") == (Exit.DONE, [])


HOSTILE = "<script>alert(1)</script> \u202e\x1b[2J {caption} $(touch canary)"


def test_the_contact_sheet_shows_what_is_trained_on_and_nothing_of_strangers_raw(make_tar, tmp_path, make_png):
    members = [
        *sample("plain", make_png(1, 40, 20), b"a red apple"),
        *sample("<b>bold", make_png(2), HOSTILE.encode()),
        *sample("torn", make_png(3, 200, 200)[:-500]),
    ]
    code, report = check(tmp_path, [make_tar(members)])
    assert code == Exit.FOUND
    page = (tmp_path / "out" / "contact_sheet.html").read_text("utf-8")
    assert {entry["rule"] for entry in report} == {"undecodable-image"}
    assert page.count("<img ") == 2  # the torn one has none, and stands among the findings as well
    assert page.count("undecodable-image") >= 2
    assert "a red apple" in page
    assert "40 x 20 → 16 x 16" in page
    for raw in ("<script", "<b>", "\u202e", "\x1b"):
        assert raw not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "\\u202e" in page


def test_a_shard_that_is_no_tar_beside_a_good_one_is_told_and_the_good_one_shown(make_tar, tmp_path):
    bad = tmp_path / "bad.tar"
    bad.write_text("<html>not found</html>")
    code, report = check(tmp_path, [bad, make_tar(GOOD)])
    assert code == Exit.FOUND
    assert [(entry["rule"], entry["key"]) for entry in report] == [("not-a-tar", None)]
    assert (tmp_path / "out" / "contact_sheet.html").read_text("utf-8").count("<img ") == 1


@pytest.mark.slow
def test_a_browser_shows_the_contact_sheet(make_tar, make_png, tmp_path):
    browser = shutil.which("chromium")
    if not browser:
        pytest.skip("chromium is not installed")
    check(tmp_path, [make_tar([*sample("one", make_png(1), HOSTILE.encode()), *sample("two", make_png(2))])])
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    flags += ["--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    page = f"file://{tmp_path / 'out' / 'contact_sheet.html'}"
    done = subprocess.run([browser, *flags, page], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.count("<figure") == 2
    assert "<script" not in done.stdout
    assert "&lt;script&gt;alert(1)" in done.stdout
