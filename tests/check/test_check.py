"""What `diffusion-train check` tells beside each rule of its own."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

from diffusion_train.check.rules import RULES
from diffusion_train.command import cli
from diffusion_train.data.shard.catalog import Catalog
from diffusion_train.utils.exit_code import Exit

RIGHTS = b'{"license": "CC0-1.0"}'


def sample(key, image, caption=b"a caption", facts=RIGHTS, kind="png"):
    return [(f"{key}.{kind}", image), (f"{key}.txt", caption), (f"{key}.json", facts)]


def rules(report):
    return sorted((one["rule"], one["key"]) for one in report)


def test_a_clean_set_gives_nothing_and_a_wrong_path_is_a_wrong_setting(make_tar, make_png, check, tmp_path):
    members = [member for i in range(200) for member in sample(f"k{i}", make_png(i))]
    assert check([make_tar(members)]) == (Exit.DONE, [])
    assert check([tmp_path / "none.tar"])[0] == Exit.WRONG


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("out={file}", "cannot be written to"),
        ("out=/proc/nowhere", "cannot be written to"),
        ("data=stream", "check only reads shards that can be indexed; choose data=shards"),
    ],
)
def test_what_would_end_in_a_traceback_is_told_before_anything_is_read(setting, told, check, capsys, tmp_path):
    (tmp_path / "file").touch()
    assert check([tmp_path / "none.tar"], setting.format(file=tmp_path / "file"), "ignore=[tornshard]")[0] == Exit.WRONG
    err = capsys.readouterr().err
    assert told in err
    assert "did you mean torn-shard?" in err


def test_packaged_collections_are_checked_as_they_are_trained_on(tmp_path):
    pytest.importorskip("simple_icons_pack")
    pytest.importorskip("resvg_py")
    code = cli.main(["check", "data=brand_icons", f"out={tmp_path / 'out'}", "data.image_size=16", "num_workers=0"])
    assert (code, json.loads((tmp_path / "out" / "report.json").read_text())) == (Exit.DONE, [])


@pytest.mark.parametrize(
    ("start", "kind"),
    [(b"PK\3\4", "a zip archive"), (b"PAR1", "a parquet file"), (b"\xff\xd8\xff\xe0", "a JPEG image")],
)
def test_another_kind_of_file_is_called_by_its_name(start, kind, check, tmp_path):
    file = tmp_path / "file.tar"
    file.write_bytes(start + bytes(2000))
    code, [found] = check([file])
    assert (code, found["rule"]) == (Exit.FOUND, "not-a-tar")
    assert kind in found["detail"]


def low_frequencies(number):
    """A PNG of 16 x 16 that looks like no other."""
    noise = np.random.default_rng(number).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).resize((16, 16), Image.Resampling.BICUBIC).save(out, "png", compress_level=1)
    return out.getvalue()


@pytest.mark.slow
def test_a_clean_set_of_10000_samples_gives_nothing(make_tar, check):
    parts = [range(start, start + 1000) for start in range(0, 10_000, 1000)]
    shards = [
        make_tar([m for i in part for m in sample(f"k{i}", low_frequencies(i), b"caption %d" % i)], f"{part[0]}.tar")
        for part in parts
    ]
    assert check(shards, "data.holdout=0.1", "data.buckets={max_ratio: 2, divisor: 8}") == (Exit.DONE, [])


def test_a_torn_shard_and_one_without_any_sample(make_tar, make_png, check, tmp_path):
    shard = make_tar([*sample("good", make_png(1)), *sample("bad", make_png(2))])
    shard.write_bytes(shard.read_bytes()[:6000])
    assert ("torn-shard", None) in rules(check([shard])[1])
    page = tmp_path / "page.tar"
    page.write_bytes(b"<html>")
    code, report = check([page])
    assert (code, rules(report)) == (Exit.FOUND, [("not-a-tar", None)])


def test_each_source_of_a_licence_is_told_once(make_tar, make_png, check):
    license = {"share": "CC-BY-SA-4.0", "same": "cc by-sa 4.0", "none": "unknown", "free": "CC0-1.0"}
    facts = {key: json.dumps({"license": name}).encode() for key, name in license.items()}
    shard = make_tar([m for i, key in enumerate(facts) for m in sample(key, make_png(i), facts=facts[key])])
    _, report = check([shard])
    assert rules(report) == [("share-alike-license", None), ("unknown-license", "none")]
    assert "CC-BY-SA-4.0: 2 sample(s)" in {one["detail"] for one in report}
    _, report = check([shard], "data.allowed_licenses=[CC0-1.0,unknown]")
    assert rules(report) == [("license-not-allowed", "same"), ("license-not-allowed", "share")]
    assert check([shard], "data.allowed_licenses=[CC0-1.0,unknown,CC-BY-SA]") == (Exit.DONE, [])


def test_copies_among_training_samples_are_no_leakage_and_leakage_is_no_copy(make_tar, make_png, check):
    last, *others = sorted([f"k{number}" for number in range(5)], key=Catalog.hash, reverse=True)
    held_out = others.pop()
    members = [m for key in (last, *others[:2], held_out) for m in sample(key, make_png(1))]
    shard = make_tar([*members, *sample(others[2], make_png(2))])
    _, report = check([shard], "data.holdout=1")
    found = {one["key"]: (one["rule"], one["detail"]) for one in report}
    assert {key: rule for key, (rule, _) in found.items()} == {
        held_out: "leakage",
        others[0]: "near-duplicate",
        others[1]: "near-duplicate",
    }
    where = f"its image is that of {last!r} in {shard}"
    assert found[held_out][1] == f"{where}, which is trained on, with the same caption"
    assert found[others[0]][1] == f"{where}, with the same caption"


def test_samples_that_are_left_out_are_no_copies(make_tar, make_png, check):
    shard = make_tar([m for key in "ab" for m in sample(key, make_png(1))] + sample("c", make_png(2, 40, 40)))
    assert rules(check([shard], "data.min_side=20")[1]) == [("below-min-side", "a"), ("below-min-side", "b")]


def test_a_field_that_some_json_lacks_is_a_missing_caption(make_tar, make_png, check):
    facts = {"with": {"license": "CC0-1.0", "title": "x"}, "without": {"license": "CC0-1.0"}}
    images = [(f"{key}.png", make_png(number)) for number, key in enumerate(facts)]
    metadata = [(f"{key}.json", json.dumps(facts[key]).encode()) for key in facts]
    settings = ["data/captions/source=json", "data.captions.source.field=title"]
    shard = make_tar([member for pair in zip(images, metadata, strict=True) for member in pair])
    assert rules(check([shard], *settings)[1]) == [("missing-caption", "without")]
    assert rules(check([shard], *settings, "data.captions.missing=empty")[1]) == [("without-caption", "without")]


def test_without_a_caption_a_sample_is_dropped_or_not_and_told(make_tar, make_png, check):
    shard = make_tar([*sample("good", make_png(1)), ("bad.png", make_png(2)), ("bad.json", RIGHTS)])
    assert rules(check([shard], "data.captions.missing=drop")[1]) == [("without-caption", "bad")]


@pytest.mark.slow
def test_a_member_too_large_to_be_read_is_told_and_not_held_in_memory(make_tar, make_png, check):
    large = bytes((1 << 26) + 1)
    shard = make_tar([*sample("text", make_png(1), large), *sample("image", large), *sample("good", make_png(2))])
    assert rules(check([shard])[1]) == [("malformed-caption", "text"), ("undecodable-image", "image")]


def test_what_an_error_hides_is_not_told(make_tar, make_png, check):
    """JSON that cannot be read names no licence; data.animated=refuse makes an animation undecodable."""
    frames = {"save_all": True, "append_images": [Image.new("RGB", (20, 16), "red")]}
    out = io.BytesIO()
    Image.open(io.BytesIO(make_png(1))).save(out, "webp", **frames)
    shard = make_tar([*sample("moving", out.getvalue(), kind="webp"), *sample("broken", make_png(2), facts=b"{")])
    found = [("malformed-json", "broken"), ("undecodable-image", "moving")]
    assert rules(check([shard], "data.animated=refuse")[1]) == found


@pytest.mark.slow
def test_the_order_is_the_same_whatever_the_number_of_processes(make_tar, make_png, check):
    kinds = [b"a caption", b" ", b"caf\xe9"]
    members = [m for i in range(600) for m in sample(f"k{i}", make_png(i % 500), kinds[i % 3])]
    shard = make_tar(members)
    code, alone = check([shard], "num_workers=0")
    assert code == Exit.FOUND
    assert len(alone) == 500
    assert check([shard], "num_workers=2")[1] == alone
    severities = [one["severity"] for one in alone]
    assert severities == sorted(severities, key=["error", "warning", "note"].index)


def test_what_is_printed(make_tar, make_png, check, capsys):
    wide = [member for i in range(2) for member in sample(f"wide{i}", make_png(i, 40, 20))]
    square = [member for i in range(6) for member in sample(f"square{i}", make_png(i + 9, 20, 20))]
    shard = make_tar([*square, *sample("blank", make_png(8, 20, 20), b""), *wide])
    settings = ["data.buckets.max_ratio=2.5", "data.buckets.divisor=4", "data.resolution=[[0,16],[100,32]]"]
    check([shard], *settings, "data.batch_size=4", "data.holdout=0.01")
    out = capsys.readouterr().out
    lines = [line.split()[:3] for line in out.splitlines()]
    assert ["warning", "1", "blank-caption"] in lines
    assert ["warning", "1", "thin-bucket"] in lines
    assert "16x16: 7 samples, 1.75 batches" in out
    assert "20x12: 2 samples, 0.5 batches" in out
    assert "9 of 9 samples would be trained on, 0 held out" in out
    assert "long captions were not checked" in out
    assert RULES["thin-bucket"].remedy in out


def test_rules_can_be_left_out_but_not_misspelt(make_tar, make_png, check, capsys):
    shard = make_tar(sample("bad", make_png(1), facts=b"{}"))
    assert check([shard], "ignore=[unknown-license]") == (Exit.DONE, [])
    assert check([shard], "ignore=[unknown-licence]", "num_workers=-1")[0] == Exit.WRONG
    told = capsys.readouterr().err
    assert "did you mean unknown-license?" in told
    assert "num_workers=-1" in told


def test_a_conditioner_that_counts_no_tokens_is_refused(make_tar, make_png, check, capsys):
    assert check([make_tar(sample("a", make_png(1)))], "conditioner=low_res")[0] == Exit.WRONG
    assert "counts tokens" in capsys.readouterr().err


def test_a_pretrained_model_counts_the_tokens_of_captions_and_gives_the_image_size(make_tar, make_png, check, tmp_path):
    pytest.importorskip("diffusers")
    import tiny_pipelines

    base = tiny_pipelines.make("sd15", tmp_path / "base")
    path = make_tar(sample("a", make_png(0, 80, 70)) + sample("b", make_png(1, 80, 70), b"red " * 100))
    command = ["check", f"data.shards={path}", f"out={tmp_path / 'checked'}", "num_workers=0"]
    assert cli.main([*command, f"pretrained={base}"]) == Exit.FOUND
    [found] = json.loads((tmp_path / "checked" / "report.json").read_text())
    assert (found["rule"], found["key"]) == ("long-caption", "b")
    assert "CLIPText takes at most 77" in found["detail"]
    assert cli.main([*command, f"pretrained={tmp_path / 'nowhere'}"]) == Exit.WRONG
    assert cli.main([*command, f"pretrained={base}", "conditioner=label"]) == Exit.WRONG


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_a_model_of_the_hub_is_checked_without_its_weights(name, make_tar, make_png, check, tmp_path, monkeypatch):
    pytest.importorskip("diffusers")
    import tiny_pipelines

    base, asked = tiny_pipelines.make(name, tmp_path / "base"), []
    for file in base.rglob("*.safetensors"):
        file.unlink()

    def snapshot(source, key, patterns):
        asked.extend(patterns)
        return base

    monkeypatch.setattr("diffusion_train.pretrained.hub.snapshot", snapshot)
    path = make_tar(sample("a", make_png(1, 80, 70), b"red " * 100))
    code, found = check([path], "pretrained=owner/name", "ignore=[unknown-license]", "num_workers=0")
    assert (code, [one["rule"] for one in found]) == (Exit.FOUND, ["long-caption"])
    assert set(asked) == {"*.json", "*.txt"}
