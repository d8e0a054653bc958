"""Coverage, sweep, rights, marks and pictures: small pieces with known answers."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate

from diffusion_train.picture import to_image
from diffusion_train.report.album import Album
from diffusion_train.report.brand_report import read_report, taken_over
from diffusion_train.report.coverage import Coverage
from diffusion_train.report.facts import Swatch
from diffusion_train.report.marks import FORMAT, Mark, judged, merged, read_marks
from diffusion_train.report.material import see
from diffusion_train.report.plot import AXES, Axis, Box, strip, trade_off
from diffusion_train.report.rights_table import affected, asked_for, rights
from diffusion_train.report.sweep import SweepRow, choose, undominated
from diffusion_train.run_folder import RunFolder

CAPTIONS = ["the acme red car logo", "the acme red bus logo", "the acme blue car logo", "the acme logo on white"]


def test_support_is_the_count_of_the_rarest_telling_word() -> None:
    coverage = Coverage(CAPTIONS)
    assert coverage.common == {"the", "acme", "logo"}
    assert coverage.support("the acme RED car") == 2
    assert coverage.support("the acme blue car") == 1
    assert coverage.support("an acme submarine") == 0
    assert coverage.support("the acme logo") == 4


def test_samples_stand_in_the_band_of_their_prompt_and_thin_words_are_named() -> None:
    found = Coverage(CAPTIONS).table(["red car", "red car", "submarine"], [0.5, 0.7, 0.1], [True, False, False])
    assert [(row.band, row.prompts, row.samples, row.flagged) for row in found.bands] == [
        ("0", 1, 1, 0),
        ("1 to 2", 1, 2, 1),
    ]
    assert found.bands[1].likeness == pytest.approx(0.6)
    assert [(one.word, one.captions) for one in found.thin] == [("submarine", 0), ("car", 2), ("red", 2)]


def row(kid: float, drift: float | None, flagged: int = 0, chance: float = 1.0) -> SweepRow:
    figures = {"kid": kid, "likeness": 0.5, "colours": 5.0, "drift": drift, "chance": chance}
    return SweepRow(axis="scale", value=1, name="", flagged=flagged, samples=8, kid_error=None, **figures)


def test_a_row_is_beaten_only_by_one_that_is_nowhere_worse() -> None:
    rows = [row(3, 0.0), row(1, 0.2), row(1.1, 0.3), row(0.5, 0.6, 3), row(0.5, 0.6, 3)]
    assert undominated(rows) == [True, True, False, True, True]
    assert undominated([row(2, None), row(1, None)]) == [False, True]


def test_the_choice_is_the_knee_among_those_that_do_not_copy() -> None:
    assert choose([row(3, 0.0), row(1, 0.2), row(0.9, 0.9)]) == 1
    assert choose([row(3, 0.0), row(1, 0.2, 5, chance=0.001), row(0.9, 0.9)]) == 0
    assert choose([row(3, 0.5, 4, chance=0.01), row(1, 0.5, 3, chance=0.02)]) == 1
    assert choose([row(2, None), row(1, None)]) == 1
    assert choose([]) is None


def test_in_the_drawing_of_a_sweep_names_cover_nothing_and_low_values_stand_near_the_axes() -> None:
    places = [(3.0, 0.0), (1.0, 0.2), (1.0, 0.25), (2.0, 0.2), (0.5, 0.9)]
    found = trade_off([replace(row(*place), name=f"scale {number}") for number, place in enumerate(places)])
    boxes = [point.name for point in found.points]
    boxes += [Box(point.x - 4, point.y - 4, point.x + 4, point.y + 4) for point in found.points]
    assert sum(one.overlap(other) for one, other in combinations(boxes, 2)) == 0
    first, *others = found.points  # no drift, and far from the brand
    assert all(first.x < one.x and first.y < one.y for one in others)
    assert (found.x.low, found.x.high, found.y.low, found.y.high) == (0, 0.9, 0.5, 3)
    alike = trade_off([replace(row(1, None), value=value) for value in (1, 2)])
    assert not alike.of_drift
    assert {point.y for point in alike.points} == {(AXES.top + AXES.bottom) / 2}


def test_the_ends_of_an_axis_differ_and_noise_does_not_fill_it() -> None:
    assert Axis.over([0.001, 0.003], least=0.05) == Axis(0.0, 0.05, 2)
    assert Axis.over([0.0012, 0.0031]) == Axis(0.0012, 0.0031, 3)
    assert Axis.over([150, 600]) == Axis(150, 600, 0)
    noisy = trade_off([replace(row(kid, 0.5), kid_error=1.0) for kid in (6.489, 6.491)])
    low, high = sorted(point.y for point in noisy.points)
    assert high - low < 1
    assert noisy.y.high - noisy.y.low == pytest.approx(1)


def test_the_stripes_of_a_palette_stand_side_by_side() -> None:
    stripes = strip([Swatch(lab=[0.0, 0.0, 0.0], fraction=0.25), Swatch(lab=[100.0, 0.0, 0.0], fraction=0.75)])
    assert [(one.left, one.fraction, one.colour) for one in stripes] == [(0, 0.25, "#000000"), (0.25, 0.75, "#ffffff")]


def run_folder(folder: Path, licenses: dict[str, int] | None, pretrained: str | None = None) -> Path:
    folder.mkdir()
    (folder / "config.yaml").write_text(json.dumps({"pretrained": pretrained}))
    if licenses is not None:
        facts = {"samples": sum(licenses.values()), "licenses": licenses, "sources": {"icons": 3}, "fingerprint": "f"}
        (folder / "data.json").write_text(json.dumps(facts))
    return folder


def test_rights_follow_the_bases_down_and_name_what_they_ask_for(tmp_path: Path) -> None:
    model = tmp_path / "sd"
    model.mkdir()
    (model / "README.md").write_text("---\ntags: [x]\nlicense: creativeml-openrail-m\n---\n# model\n")
    first = run_folder(
        tmp_path / "first", {"CC BY-SA 4.0": 5, "https://creativecommons.org/licenses/by-sa/4.0/": 1}, str(model)
    )
    run = run_folder(tmp_path / "run", {"CC-BY-NC-4.0": 2, "unknown": 1}, str(first))
    found = rights(run, str(first))
    assert [[(one.name, one.images) for one in entry.licenses] for entry in found] == [
        [("CC-BY-NC-4.0", 2), ("unknown", 1)],
        [("CC-BY-SA-4.0", 6)],
        [("creativeml-openrail-m", None)],
    ]
    assert list(asked_for(found)) == ["share-alike", "non-commercial", "use-restricted", "unknown"]
    assert affected(found, "unknown") == "1 image of this run"
    assert affected(found, "use-restricted") == "base model"


def test_what_the_record_says_of_the_base_goes_before_its_files(tmp_path: Path) -> None:
    model = tmp_path / "sd"
    model.mkdir()
    run = run_folder(tmp_path / "run", {"MIT": 1}, str(model))
    assert rights(run, str(model))[1].licenses[0].name == "unknown"
    (model / "README.md").write_text("---\nlicense: openrail\n---\n")
    assert rights(run, str(model))[1].licenses[0].name == "openrail"
    assert rights(run, str(model), "Apache 2.0")[1].licenses[0].name == "Apache-2.0"
    own = run_folder(tmp_path / "own", {"MIT": 1})
    assert [entry.licenses[0].name for entry in rights(run, str(own), "CC0")] == ["MIT", "MIT", "CC0-1.0"]


@pytest.mark.parametrize("content", [None, "no json", "[]", '{"licenses": []}'], ids=["no file", "torn", "list", "odd"])
def test_rights_that_nobody_wrote_down_are_unknown(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "data.json").write_text(content)
    [entry] = rights(tmp_path, None)
    assert [one.terms for one in entry.licenses] == [["unknown"]]


def test_a_base_that_is_its_own_base_ends(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", {"MIT": 1}, str(tmp_path / "run"))
    assert 1 < len(rights(run, str(run))) < 20


def mark(image: str = "a" * 32, verdict: str = "approve", **other: Any) -> dict[str, Any]:
    plain = {"prompt": "red", "seed": 0, "remark": "", "reviewer": "Ada", "time": "2026-01-01T00:00:00Z"}
    return {"image": image, "verdict": verdict, **plain, **other}


def marks_file(tmp_path: Path, *marks: Any, **other: Any) -> Path:
    file = tmp_path / "marks.json"
    file.write_text(json.dumps({"format": FORMAT, "marks": list(marks), **other}))
    return file


def test_marks_are_read_as_they_were_saved_and_nothing_else_is(tmp_path: Path) -> None:
    file = marks_file(tmp_path, {**mark(), "extra": "<b>"}, mark("b" * 32, "reject", remark="off colour"))
    assert [asdict(one) for one in read_marks(file).marks] == [mark(), mark("b" * 32, "reject", remark="off colour")]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "cannot be read as JSON"),
        ('{"marks": []}', "not a file of marks"),
        (json.dumps({"format": FORMAT, "marks": [3]}), "mark 0: not a mapping"),
        (json.dumps({"format": FORMAT, "marks": [mark(), mark(verdict="maybe")]}), "mark 1: verdict 'maybe'"),
        (json.dumps({"format": FORMAT, "marks": [mark(verdict="", remark="")]}), "mark 0: needs a verdict or a remark"),
        (json.dumps({"format": FORMAT, "marks": [mark(remark="x" * 5000)]}), "remark must be text"),
        (json.dumps({"format": FORMAT, "marks": [mark(seed=True)]}), "seed must be a whole number"),
    ],
)
def test_files_that_hold_no_marks_are_refused(tmp_path: Path, content: str, told: str) -> None:
    file = tmp_path / "marks.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=told):
        read_marks(file)


def test_a_reviewers_last_word_counts_and_reviewers_stand_beside_each_other() -> None:
    early, late = Mark(**mark(time="2026-01-01")), Mark(**mark(verdict="reject", time="2026-01-02"))
    other = Mark(**mark(reviewer="Bob"))
    assert merged([late], [early, other]) == [late, other]
    assert merged([early], [late]) == [late]


def test_a_remark_without_a_verdict_is_a_mark(tmp_path: Path) -> None:
    file = tmp_path / "marks.json"
    file.write_text(json.dumps({"format": FORMAT, "weights": "w", "marks": [mark(verdict="", remark="too dark")]}))
    found = read_marks(file)
    assert (found.marks[0].verdict, found.marks[0].remark, found.weights) == ("", "too dark", "w")


def test_one_rejection_outweighs_approvals_and_unknown_images_do_not_count() -> None:
    verdicts = [("a", "approve"), ("b", "approve"), ("b", "reject"), ("c", ""), ("d", "approve")]
    marks = [Mark(**mark(image=image, verdict=verdict, remark="x")) for image, verdict in verdicts]
    assert judged(marks, {"a", "b", "c"}) == ({"a"}, {"b"})


@pytest.mark.parametrize(
    "content",
    ["{", "[]", "[" * 100000, '{"marks": 3}', '{"marks": [{"image": "a", "verdict": "approve"}]}', b"\xff"],
)
def test_an_older_report_that_cannot_be_read_is_put_aside(tmp_path: Path, content: str | bytes) -> None:
    data = content if isinstance(content, bytes) else content.encode()
    for number in (1, 2):
        (tmp_path / "report.json").write_bytes(data)
        with pytest.warns(
            UserWarning, match=f"has none of its marks; the old file is now report.unreadable_{number}.json"
        ):
            assert taken_over(RunFolder(tmp_path)) == ((), None, None)
        assert (tmp_path / f"report.unreadable_{number}.json").read_bytes() == data
        with pytest.raises(ValueError, match="first write the report"):
            read_report(tmp_path)
    (tmp_path / "report.json").write_text(json.dumps({"marks": [mark()], "brand": "Acme"}))
    assert taken_over(RunFolder(tmp_path)) == ([Mark(**mark())], "Acme", None)


@pytest.mark.parametrize("content", ["{", "[]", "[" * 100000, "{}"])
def test_a_damaged_report_is_named_with_its_remedy(tmp_path: Path, content: str) -> None:
    (tmp_path / "report.json").write_text(content)
    with pytest.raises(ValueError, match=r"this version cannot read report\.json .*; write the report again"):
        read_report(tmp_path)


def test_what_is_kept_of_images_is_small_and_gives_the_same_figures() -> None:
    large = torch.rand(5, 3, 256, 192, generator=torch.Generator().manual_seed(0)) * 2 - 1
    seen = see(large, lambda x: x.flatten(1)[:, :4])
    assert (seen.small.shape, seen.small.dtype) == ((5, 3, 64, 64), torch.uint8)
    [kept] = seen.chunks()
    exact, found = (interpolate(x, (16, 16), mode="area") for x in (large, kept))
    assert (exact - found).abs().max() < 1 / 127.5
    small = large[..., :32, :48]
    [kept] = see(small, lambda x: x.flatten(1)[:, :4]).chunks()
    assert (kept - small).abs().max() <= 0.5 / 127.5 + 1e-6  # as they are, but for levels


def test_pictures_are_written_as_they_are_kept_and_named_by_their_pixels(tmp_path: Path) -> None:
    album = Album(tmp_path / "new")
    x = torch.rand(2, 3, 4, 6, generator=torch.Generator().manual_seed(0)) * 2 - 1
    names = [album.add(image) for image in (x[0], x[1], x[0])]
    assert names[0] == names[2] != names[1]
    assert sorted(file.stem for file in (tmp_path / "new").iterdir()) == sorted(names[:2])
    assert Image.open(tmp_path / "new" / f"{names[0]}.png").tobytes() == to_image(x[0]).tobytes()
    assert album.add(x[0].transpose(1, 2)) not in names
