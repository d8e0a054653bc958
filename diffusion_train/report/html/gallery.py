"""The samples, before and after, with what they may be copies of, and the marks of who approves them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from diffusion_train.report.html.elements import count, percent, picture, text

TITLES = {
    "brand": ("Brand prompts", "What the model is for. Approve or reject these."),
    "learned": (
        "Prompts it was trained on",
        "Captions of training images: where a model has learned by heart, copies show here first.",
    ),
    "general": ("Prompts that have nothing to do with the brand", "What the model did to everything else."),
}
NAMES = {"hash": "by shape", "features": "by what it shows", "thumbnail": "as a small picture"}


def gallery(report: dict[str, Any], folder: Path) -> str:
    marks: dict[str, list[dict[str, Any]]] = {}
    for mark in report["marks"]:
        marks.setdefault(mark["image"], []).append(mark)
    sections = []
    for kind, samples in groupby(report["samples"], key=lambda sample: str(sample["set"])):
        title, words = TITLES[kind]
        cards = "".join(_card(sample, folder, marks.get(sample["image"], ())) for sample in samples)
        origin = report["prompts"][kind]
        words += f" {count(origin['count'], 'prompt')}: {text(origin['origin'])}."
        sections.append(
            f'<section id="{kind}"><h2>{title}</h2><p class="lead">{words}</p><div class="grid">{cards}</div></section>'
        )
    return "".join(sections)


def _card(sample: dict[str, Any], folder: Path, marks: Sequence[dict[str, Any]]) -> str:
    copying = sample["copying"]
    flagged = " flagged" if copying["flagged"] else ""
    flag = '<p class="flag">Near to a training image</p>' if flagged else ""
    before = _shot(folder, sample["before"], "before", sample["prompt"]) if sample["before"] else ""
    after = _shot(folder, sample["image"], "after" if before else "", sample["prompt"])
    pairs = _pairs(copying, folder)
    pairs = pairs if flagged else f"<details><summary>nearest training image</summary>{pairs}</details>"
    data = f'data-image="{text(sample["image"])}" data-prompt="{text(sample["prompt"], 2000)}" data-seed="{int(sample["seed"])}"'
    return (
        f'<figure class="sample{flagged}" {data}>{flag}<div class="shots">{before}{after}</div>'
        f"<figcaption>{text(sample['prompt']) or '<em>no prompt</em>'} <small>seed {int(sample['seed'])}</small></figcaption>"
        f"{pairs}{_earlier(marks)}{_CONTROLS}</figure>"
    )


def _shot(folder: Path, name: str, label: str, alt: str) -> str:
    told = f"<small>{label}</small>" if label else ""
    return f'<div class="shot {label}">{picture(folder / f"{name}.png", f"{label} {alt}".strip())}{told}</div>'


def _pairs(copying: dict[str, Any], folder: Path) -> str:
    """The nearest training image by each measure; both together where they agree."""
    by_image: dict[str, list[str]] = {}
    for measured in NAMES:
        by_image.setdefault(copying[measured]["image"], []).append(measured)
    shots = []
    for image, measures in by_image.items():
        one = copying[measures[0]]
        told = "".join(f"<small>{_distance(copying[measured], measured)}</small>" for measured in measures)
        shots.append(
            f'<div class="shot pair">{picture(folder / f"{image}.png", one["caption"])}'
            f"<small>training image <b>{text(one['caption'], 80)}</b></small>{told}</div>"
        )
    return f'<div class="shots pairs">{"".join(shots)}</div>'


def _distance(found: dict[str, Any], measured: str) -> str:
    words = f"{NAMES[measured]}: {percent(found['relative'])} of the way to the next"
    return f'<b class="near">{words}</b>' if found["near"] else words


def _earlier(marks: Sequence[dict[str, Any]]) -> str:
    lines = [
        f'<li class="{text(mark["verdict"])}"><b>{text(mark["reviewer"], 60) or "somebody"}</b>: {text(mark["verdict"])}'
        f"{', ' + text(mark['remark'], 1000) if mark['remark'] else ''} <small>{text(mark['time'][:10])}</small></li>"
        for mark in marks
    ]
    return f'<ul class="marks">{"".join(lines)}</ul>' if lines else ""


_CONTROLS = (
    '<div class="controls"><button type="button" class="approve" aria-pressed="false">Approve</button>'
    '<button type="button" class="reject" aria-pressed="false">Reject</button>'
    '<input class="remark" aria-label="Remark" placeholder="Remark" maxlength="2000"></div>'
)
