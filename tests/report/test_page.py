"""The page: what others wrote is shown and never obeyed; nothing is loaded; it works in a real browser."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from report_content import HOSTILE, PICTURES, WEIGHTS, report, sample

from diffusion_train.approval import Approvals, Decision
from diffusion_train.report.brand_report import from_json, read_report, to_json
from diffusion_train.report.marks import read_marks
from diffusion_train.report.report_page import report_page
from diffusion_train.rights.license import MEANING


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, colour in PICTURES.items():
        (tmp_path / "report_images").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), colour).save(tmp_path / "report_images" / f"{name}.png")
    return tmp_path


def made_page(folder: Path, decisions: Sequence[Decision] = (), **other: Any) -> str:
    return report_page(from_json(report(**other)), folder / "report_images", Approvals(decisions, WEIGHTS, 1.0))


def first_screen(folder: Path, **other: Any) -> str:
    """The text above the samples, with single spaces and without tags."""
    return " ".join(re.sub("<[^>]*>", " ", made_page(folder, **other).split('class="toolbar"')[0]).split())


def fidelity(change: float, error: float | None = 0.3, **other: Any) -> dict[str, Any]:
    """Closeness of a run whose distance changed by `change`; that of the base is 6.5, of real images 0.5."""
    close = {"kid_error": 1.0, "likeness": 0.4, "colours": 10.0}
    parts = {name: {"kid": kid, **close} for name, kid in (("base", 6.5), ("run", 6.5 + change), ("floor", 0.5))}
    closed = {"kid": -change / 6, "colours": 0.1}
    return {**report()["fidelity"], **parts, "change": {"value": change, "error": error}, "gap_closed": closed, **other}


def without_a_base() -> dict[str, Any]:
    """What differs in the report of a run that has neither a base nor held-out images."""
    full = report()
    data = {**full["data"], "held_out": 0, "held_out_seen": 0, "reference": "training images"}
    fidelity = {**full["fidelity"], "base": None, "floor": None, "change": None, "changed": None}
    del fidelity["gap_closed"]
    samples = [{**one, "before": None, "own": None} for one in full["samples"]]
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
    text = first_screen(folder, fidelity=fidelity(0.5))
    assert "Further away The samples were closer to real images of the brand before training." in text
    assert "of the way" not in text


@pytest.mark.parametrize(("change", "error"), [(0.002, 0.3), (-0.002, 0.3), (-3.0, None)])
def test_noise_gets_no_verdict(folder: Path, change: float, error: float | None) -> None:
    text = first_screen(folder, fidelity=fidelity(change, error))
    assert "No clear change The distance to real images of the brand did not change clearly" in text
    assert ("differences up to 0.30 are noise" if error else "too few images to tell differences from noise") in text
    assert "✗ decide on this" not in made_page(folder, fidelity=fidelity(change, error)).split("What was copied")[0]


def test_a_run_that_came_closer_says_by_how_much(folder: Path) -> None:
    text = first_screen(folder, fidelity=fidelity(-3.0))
    assert "50 % of the way from the base to real images of the brand (between 45 % and 55 %)." in text
    assert "before 6.50, after 3.50; differences up to 0.30 are noise. Real images: 0.50." in text


def test_samples_that_training_did_not_change_look_the_same(folder: Path) -> None:
    assert "Looks as before Before and after look the same" in first_screen(
        folder, fidelity=fidelity(-1.0, changed=0.001)
    )


@pytest.mark.parametrize(
    ("after", "told"),
    [(13.0, "further from the brand’s than before"), (9.5, "as far from the brand’s as"), (5.0, "closer to")],
)
def test_colours_are_told_however_they_changed(folder: Path, after: float, told: str) -> None:
    run = {"kid": 1.0, "kid_error": None, "likeness": 0.4, "colours": after}
    text = first_screen(folder, fidelity=fidelity(-1.0, run=run))
    assert f"The colours of the samples are {told}" in text
    assert f"less than 1 is not visible): before 10.0, after {after:.1f}." in text


def test_the_title_names_brand_owner_and_date(folder: Path) -> None:
    content = made_page(folder, brand="Acme", owner="Acme AG", name="brand")
    assert "<h1>Acme</h1>" in content
    assert "Owner: Acme AG Report of 1 January 2026 Run brand, step 7" in first_screen(
        folder, brand="Acme", owner="Acme AG", name="brand"
    )
    assert "<h1>run 3</h1>" in made_page(folder, brand=None, name="run 3")


def test_the_brand_s_own_images_stand_above_and_beside_the_samples(folder: Path) -> None:
    above, *cards = made_page(folder).split("<figure ")
    assert "The brand’s own images" in above
    assert ["the brand’s own" in card for card in cards] == [True, True, True]
    samples = [sample("a" * 32, own=None)]
    assert "the brand’s own</small>" not in made_page(folder, samples=samples)


def decision(**other: Any) -> Decision:
    facts = {"verdict": "approved", "use": "campaign X", "by": "Ada <b>", "date": "2026-12-01T10:00:00+00:00"}
    return Decision(**{**facts, "weights": WEIGHTS, "scale": 1.0, "approved": 3, "rejected": 1, **other})


def test_the_decision_stands_at_the_top(folder: Path) -> None:
    assert "Not decided yet." in first_screen(folder)
    told = "Approved for campaign X by Ada &lt;b&gt; on 1 December 2026. 3 samples approved, 1 rejected."
    assert told in first_screen(folder, decisions=[decision()]).replace(" .", ".")
    for lapsed, why in (
        (decision(weights="1" * 64), "out of date: the weights have changed since"),
        (decision(scale=0.5), "for adapter.scale=0.5 only, not for adapter.scale=1"),
        (decision(verdict="revoked", by="Bob"), "withdrawn by Bob on 2026-12-01"),
    ):
        text = first_screen(folder, decisions=[decision(), lapsed])
        assert f"Not approved for campaign X : {why}." in text
        assert "Approved for" not in text


def test_the_first_screen_names_what_must_be_decided(folder: Path) -> None:
    content = made_page(folder)
    assert "1 of 4" in content
    assert "50 %" in content
    assert "2.0 ×" in content
    assert "(4 &lt;script&gt;" in content.split("the licence text was not recognised")[0][-400:]


@pytest.mark.parametrize(
    ("term", "level"), [(term, "note" if term in ("share-alike", "use-restricted") else "bad") for term in MEANING]
)
def test_rights_are_red_for_all_terms_but_two(folder: Path, term: str, level: str) -> None:
    rights = [{"role": "images", "images": 4, "licenses": [{"name": "x", "images": 4, "terms": [term]}], "sources": {}}]
    assert f'<article class="card {level}"><h2>Rights</h2>' in made_page(folder, rights=rights)


def test_marks_for_a_report_of_another_version_fail_with_the_remedy(tmp_path: Path) -> None:
    for content in ({}, report(further=1)):
        (tmp_path / "report.json").write_text(json.dumps(content))
        with pytest.raises(
            ValueError, match=r"cannot read report.json .*; write the report again: diffusion-train report run="
        ):
            read_report(tmp_path)


@pytest.mark.slow
def test_a_person_marks_in_a_browser_and_the_marks_come_back(folder: Path) -> None:
    browser = _browser()
    file, profile = folder / "report.html", folder / "profile"
    samples = [*report()["samples"], sample("c" * 32, kind="general")]
    file.write_text(made_page(folder, samples=samples), "utf-8")

    async def use(tab: Any) -> dict[str, Any]:
        await tab.open(file)
        found = {"before": await tab.run("document.querySelector('#progress').textContent")}
        await tab.run("document.querySelectorAll('.controls .approve')[0].click()")
        await tab.run("document.querySelectorAll('.reject')[1].click()")
        await tab.run(
            "const box = document.querySelectorAll('.remark')[1]; box.value = 'off <b>colour'; "
            "box.dispatchEvent(new Event('input'))"
        )
        await tab.run(
            "const last = document.querySelectorAll('.remark')[3]; last.value = 'dark'; "
            "last.dispatchEvent(new Event('input'))"
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
    saved = read_marks(folder / "marks.json")
    marks = {mark.image: mark for mark in saved.marks}
    assert {image[0]: (mark.verdict, mark.remark) for image, mark in marks.items()} == {
        "a": ("approve", ""),
        "b": ("reject", "off <b>colour"),
        "c": ("", "dark"),
    }
    assert {mark.reviewer for mark in marks.values()} == {"Ada"}
    assert saved.weights == WEIGHTS


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


@pytest.mark.slow
def test_the_page_fits_a_desk_and_a_phone(folder: Path) -> None:
    file = folder / "report.html"
    marks = [{"image": "a" * 32, "prompt": "", "seed": 0, "verdict": "", "remark": "dark", "reviewer": "A", "time": ""}]
    file.write_text(made_page(folder, decisions=[decision()], marks=marks), "utf-8")

    async def use(tab: Any) -> list[Any]:
        found = []
        for width in (1400, 390):
            size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
            await tab.call("Emulation.setDeviceMetricsOverride", **size)
            await tab.open(file)
            found.append(await tab.run("document.documentElement.scrollWidth"))
        return [*found, await tab.run("document.querySelector('#progress').textContent")]

    *widths, progress = _browser().drive(folder / "profile", folder, use)
    assert widths[0] <= 1400
    assert widths[1] <= 390
    assert progress == "0 of 2 brand samples judged"  # a remark alone judges nothing


def _browser() -> Any:
    spec = importlib.util.spec_from_file_location("browser", Path(__file__).with_name("browser.py"))
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_run_without_recorded_licences_asks_for_a_decision(folder: Path) -> None:
    assert "Rights None recorded No licence of a training image is on record." in first_screen(folder, rights=[])
    own = {"role": "training images", "images": 4, "licenses": [], "sources": {}}
    names = [{"name": name, "images": 2, "terms": []} for name in ("LicenseRef-Own", "CC0-1.0")]
    assert "Rights Own, CC0-1.0 No recorded licence" in first_screen(folder, rights=[{**own, "licenses": names}])


def test_the_decision_says_how_many_samples_were_not_judged(folder: Path) -> None:
    made = {
        "verdict": "approved",
        "use": "posters",
        "by": "Ada",
        "date": "2026-01-01",
        "weights": WEIGHTS,
        "scale": 1.0,
    }
    for number, words in ((2, "3 samples approved, 1 rejected, 2 not judged."), (None, "1 rejected.</p>")):
        assert words in made_page(folder, [Decision(**made, approved=3, rejected=1, not_judged=number)])
