"""The audit of copies on real runs: it speaks of what was learned by heart and is silent on what was never seen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def report_of(run: Path):
    return json.loads((run / "report.json").read_text("utf-8"))


def test_a_model_overfitted_on_four_images_is_flagged(learned: Path) -> None:
    facts = report_of(learned)["copying"]["learned"]
    assert facts["samples"] == 8
    assert facts["flagged"] >= 7, facts
    assert facts["chance"] < 1e-6


def test_each_flag_names_the_image_that_was_copied(learned: Path) -> None:
    samples = [sample for sample in report_of(learned)["samples"] if sample["set"] == "learned"]
    flagged = [sample for sample in samples if sample["copying"]["flagged"]]
    named = [sample["copying"]["features"]["caption"] == sample["prompt"] for sample in flagged]
    assert sum(named) >= len(named) - 1


def test_a_model_that_never_saw_them_is_silent_on_the_same_prompts(learned: Path) -> None:
    facts = report_of(learned)["copying"]["base"]
    assert facts["samples"] == 16
    assert facts["flagged"] == 0, facts


def test_the_strength_at_which_copies_begin_shows_in_the_sweep(learned: Path) -> None:
    rows = {row["name"]: row for row in report_of(learned)["sweep"]["rows"]}
    assert rows["scale 0"]["flagged"] == 0
    assert rows["scale 1"]["flagged"] >= 3
    assert rows["scale 0"]["drift"] == pytest.approx(0, abs=1e-6)
    assert rows["step 450"]["kid"] == pytest.approx(rows["scale 1"]["kid"], rel=1e-4)
