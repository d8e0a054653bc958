"""The page: what others wrote is shown and never obeyed; nothing is loaded; it works in a real browser."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from diffusion_train.report.brand_report import add_marks, from_json, to_json
from diffusion_train.report.marks import read_marks
from diffusion_train.report.report_page import report_page

HOSTILE = "<script>alert(1)</script> \u202e\x1b[2J {caption} \" onload='x' ${name} &amp; </style>"
PICTURES = {"a" * 32: "red", "b" * 32: "blue", "c" * 32: "green"}


def sample(image: str, kind: str = "brand", flagged: bool = False, **other: Any) -> dict[str, Any]:
    pair = {"relative": 0.25, "near": flagged, "image": "c" * 32, "key": HOSTILE, "caption": HOSTILE}
    measures = ("hash", "features", "thumbnail")
    copying = {"p": 0.5, "flagged": flagged, **dict.fromkeys(measures, pair)}
    plain = {"set": kind, "prompt": HOSTILE, "seed": 0, "before": "b" * 32, "image": image, "likeness": 0.4}
    return {**plain, "copying": copying, **other}


def report(**other: Any) -> dict[str, Any]:
    """The content of a report.json."""
    close = {"kid": 1.0, "likeness": 0.4, "colours": 5.0}
    audit = {
        "samples": 2,
        "flagged": 1,
        "asked_false_alarm": 0.05,
        "false_alarm": 0.05,
        "expected": 0.1,
        "chance": 0.09,
        "thresholds": {"hash": 0.5, "features": 0.4},
        "references": 50,
        "held_out": 10,
        "leaked": 1,
        "train": 4,
        "measures": ["hash", "features", "thumbnail"],
    }
    swatches = [{"lab": [50.0, 10.0, 10.0], "fraction": 0.75}, {"lab": [90.0, 0.0, 0.0], "fraction": 0.25}]
    rows = [
        {"axis": "scale", "value": value, "name": f"scale {value}", **close, "drift": value, "flagged": 0, "samples": 2}
        | {"chance": 1.0, "undominated": True, "chosen": value == 1}
        for value in (0, 1)
    ]
    licenses = [{"name": HOSTILE, "images": 4, "terms": ["unread"]}]
    content = {
        "format": 1,
        "name": HOSTILE,
        "base": HOSTILE,
        "data": {"train": 4, "train_seen": 4, "held_out": 10, "held_out_seen": 10, "reference": "held-out images"},
        "prompts": {kind: {"count": 1, "origin": "given"} for kind in ("brand", "general")},
        "fidelity": {
            "extractor": "efflite0",
            "samples": 2,
            **dict.fromkeys(("base", "run", "floor"), close),
            "palettes": {"brand": swatches, "run": swatches},
            "gap_closed": {"kid": 0.5, "colours": None},
        },
        "drift": {"changed": 0.2, "seeds": 0.1, "kid": 0.3, "colours": 2.0},
        "copying": {"brand": audit, "general": {**audit, "flagged": 0, "chance": 1.0}, "base": audit},
        "coverage": {
            "captions": 4,
            "bands": [{"band": "0", "prompts": 1, "samples": 2, "likeness": 0.4, "flagged": 1}],
            "thin": [{"word": HOSTILE, "captions": 0}],
            "num_thin": 1,
            "common": [HOSTILE],
        },
        "samples": [sample("a" * 32, flagged=True), sample("b" * 32), sample("a" * 32, kind="general", seed=1)],
        "sweep": {"rows": rows, "goals": ["kid"]},
        "rights": [{"role": HOSTILE, "images": 4, "licenses": licenses, "sources": {}}],
        "made": "2026-01-01T00:00:00+00:00",
        "version": "0",
        "weights": "0" * 16,
        "step": 7,
        "marks": [],
    }
    return {**content, **other}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, colour in PICTURES.items():
        (tmp_path / "report_images").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), colour).save(tmp_path / "report_images" / f"{name}.png")
    return tmp_path


def made_page(folder: Path, **other: Any) -> str:
    return report_page(from_json(report(**other)), folder / "report_images")


def without_a_base() -> dict[str, Any]:
    """What differs in the report of a run that has neither a base nor held-out images."""
    full = report()
    data = {**full["data"], "held_out": 0, "held_out_seen": 0, "reference": "training images"}
    fidelity = {**full["fidelity"], "base": None, "floor": None}
    del fidelity["gap_closed"]
    samples = [{**one, "before": None} for one in full["samples"]]
    return {"base": None, "data": data, "fidelity": fidelity, "drift": None, "samples": samples, "sweep": None}


def test_report_json_reads_back_as_it_was_written() -> None:
    mark = {
        "image": "a" * 32,
        "prompt": "",
        "verdict": "reject",
        "remark": "",
        "reviewer": "Ada",
        "time": "",
        "seed": 0,
    }
    recorded = {**report()["rights"][0], "fingerprint": "f"}
    for other in ({}, without_a_base(), {"marks": [mark], "rights": [recorded]}):
        content = report(**other)
        assert json.dumps(to_json(from_json(content))) == json.dumps(content)


def test_nothing_that_others_wrote_stands_raw_in_the_page(folder: Path) -> None:
    marks = [
        {"image": "a" * 32, "prompt": "", "verdict": "reject", "remark": HOSTILE, "reviewer": HOSTILE, "time": HOSTILE}
        | {"seed": 0}
    ]
    content = made_page(folder, marks=marks)
    assert content.count("<script>") == content.count("</script>") == content.count("</style>") == 1
    for raw in ("alert(1)<", "\u202e", "\x1b", "onload='"):
        assert raw not in content
    assert content.count("&lt;script&gt;alert(1)") > 12
    assert "\\u202e" in content


def test_the_page_may_load_nothing_and_run_only_its_own_script(folder: Path) -> None:
    content = made_page(folder)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', content)
    assert policy
    rules = dict(rule.strip().split(" ", 1) for rule in policy[1].split(";"))
    assert (rules["default-src"], rules["img-src"]) == ("'none'", "data:")
    for kind in ("style", "script"):
        found = re.search(rf"<{kind}>(.*?)</{kind}>", content, re.DOTALL)
        assert found
        digest = base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()
        assert rules[f"{kind}-src"] == f"'sha256-{digest}'"
    attributes = attributes_of(content)
    assert {value.split(":")[0] for name, value in attributes if name in ("src", "href")} == {"data"}
    assert not [name for name, _ in attributes if name.startswith("on") or name == "style"]


def attributes_of(content: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: found.extend((name, value or "") for name, value in attributes)  # type: ignore[method-assign]
    parser.feed(content)
    return found


def test_a_flag_stands_beside_its_pair(folder: Path) -> None:
    cards = made_page(folder).split("<figure ")[1:]
    assert ["Close to a training image" in card for card in cards] == [True, False, False]
    assert "25 % of the distance to the second nearest" in cards[0]
    assert ["<details>" in card for card in cards] == [False, True, True]


def test_marks_stand_beside_the_image_that_they_are_of_wherever_it_is_shown(folder: Path) -> None:
    mark = {"image": "a" * 32, "prompt": "", "seed": 0, "verdict": "reject", "remark": "off colour", "reviewer": "Ada"}
    cards = made_page(folder, marks=[{**mark, "time": "2026-01-02T00:00"}]).split("<figure ")[1:]
    assert ["Ada</b>: reject, off colour" in card for card in cards] == [True, False, True]


def test_a_run_without_a_base_or_held_out_images_says_so(folder: Path) -> None:
    content = made_page(folder, **without_a_base())
    assert "starting from random weights" in content
    assert "copying cannot be distinguished" in content
    assert "What changed elsewhere" not in content
    assert ">before<" not in content


def test_one_held_out_image_is_too_few_to_compare_with(folder: Path) -> None:
    data = {**report()["data"], "held_out": 1, "held_out_seen": 1, "reference": "training images"}
    content = made_page(folder, data=data)
    assert "1 more image of the brand was held out: training never used it." in content
    assert "are compared with 4 training images" in content


def test_a_run_that_went_away_from_the_brand_is_told(folder: Path) -> None:
    fidelity = {**report()["fidelity"], "gap_closed": {"kid": -0.2, "colours": 0.1}}
    first_screen = made_page(folder, fidelity=fidelity).split('class="toolbar"')[0]
    assert "Further away" in first_screen
    assert "10 % of the way to them" in first_screen
    assert "of the way from the base" not in first_screen


def test_the_first_screen_names_what_must_be_decided(folder: Path) -> None:
    content = made_page(folder)
    assert "1 of 4" in content
    assert "50 %" in content
    assert "2.0 ×" in content
    assert "the licence text was not recognised" in content


def test_marks_for_a_report_of_another_version_fail_with_the_remedy(tmp_path: Path) -> None:
    for content in ({}, report(further=1)):
        (tmp_path / "report.json").write_text(json.dumps(content))
        with pytest.raises(
            ValueError, match=r"cannot read report.json .*; run the command without marks= to write the report again"
        ):
            add_marks(tmp_path, tmp_path / "marks.json")


@pytest.mark.slow
def test_a_person_marks_in_a_browser_and_the_marks_come_back(folder: Path) -> None:
    browser = _browser()
    file, profile = folder / "report.html", folder / "profile"
    file.write_text(made_page(folder), "utf-8")

    async def use(tab: Any) -> dict[str, Any]:
        await tab.open(file)
        found = {"before": await tab.run("document.querySelector('#progress').textContent")}
        await tab.run("document.querySelectorAll('.approve')[0].click()")
        await tab.run("document.querySelectorAll('.reject')[1].click()")
        await tab.run(
            "const box = document.querySelectorAll('.remark')[1]; box.value = 'off <b>colour'; box.dispatchEvent(new Event('input'))"
        )
        await tab.run("document.querySelector('[value=flagged]').click()")
        found["shown"] = await tab.run("document.querySelectorAll('.sample:not(.hidden)').length")
        await tab.run("document.querySelector('#save').click()")
        found["nameless"] = await tab.run("document.activeElement.id")
        await tab.run(
            "const who = document.querySelector('#reviewer'); who.value = 'Ada'; who.dispatchEvent(new Event('input'))"
        )
        await tab.run("document.querySelector('#save').click()")
        await tab.until(lambda: tab.downloaded)
        await tab.open(file)
        found["kept"] = await tab.run("document.querySelector('#progress').textContent")
        found["pictures"] = await tab.run("[...document.images].every((image) => image.naturalWidth === 8)")
        return {**found, "complaints": tab.complaints, "requests": tab.requests}

    found = browser.drive(profile, folder, use)
    assert found["complaints"] == []
    assert {url.split(":")[0] for url in found["requests"]} <= {"file", "data", "blob"}
    assert found["before"] == "0 of 2 brand samples judged"
    assert found["kept"] == "2 of 2 brand samples judged, 1 rejected"
    assert (found["shown"], found["nameless"], found["pictures"]) == (1, "reviewer", True)
    marks = {mark.image: mark for mark in read_marks(folder / "marks.json")}
    assert {image[0]: (mark.verdict, mark.remark) for image, mark in marks.items()} == {
        "a": ("approve", ""),
        "b": ("reject", "off <b>colour"),
    }
    assert {mark.reviewer for mark in marks.values()} == {"Ada"}
    assert json.loads((folder / "marks.json").read_text())["weights"] == "0" * 16


@pytest.mark.slow
def test_marks_that_the_report_has_taken_in_count_as_judged_until_one_s_own_replace_them(folder: Path) -> None:
    mark = {"prompt": "", "seed": 0, "remark": "", "time": "2026-01-02T00:00"}
    taken_in = [("a" * 32, "approve", "Ada"), ("a" * 32, "reject", "Ben")]
    marks = [{**mark, "image": image, "verdict": verdict, "reviewer": who} for image, verdict, who in taken_in]
    file = folder / "report.html"
    file.write_text(made_page(folder, marks=marks), "utf-8")

    async def use(tab: Any) -> list[Any]:
        await tab.open(file)
        progress = "document.querySelector('#progress').textContent"
        found = [await tab.run(progress)]
        await tab.run("document.querySelector('[value=open]').click()")
        found.append(await tab.run("document.querySelectorAll('.sample:not(.hidden)').length"))
        await tab.run("document.querySelectorAll('button.approve')[0].click()")
        return [*found, await tab.run(progress)]

    assert _browser().drive(folder / "profile", folder, use) == [
        "1 of 2 brand samples judged, 1 rejected",
        1,  # the other image
        "1 of 2 brand samples judged, 0 rejected",
    ]


def _browser() -> Any:
    spec = importlib.util.spec_from_file_location("browser", Path(__file__).with_name("browser.py"))
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
