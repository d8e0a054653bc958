"""Marks of reviewers: approvals, rejections and remarks on samples, read from an untrusted file.

A mark belongs to the hash of the image that was judged, so it outlives the report in which it was made.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

FORMAT = "diffusion_train marks 1"
VERDICTS = ("approve", "reject", "")  # "" is a remark without a verdict
_FIELDS = {"image": 64, "prompt": 2000, "verdict": 10, "remark": 4000, "reviewer": 200, "time": 40}
_MAX_BYTES = 16 << 20


@dataclass(frozen=True)
class Mark:
    """A reviewer's verdict on an image, which `image` names by its hash, or a remark alone (`verdict` "")."""

    image: str
    prompt: str
    verdict: str
    remark: str
    reviewer: str
    time: str
    seed: int


@dataclass(frozen=True)
class MarksFile:
    """The marks that a reviewer saved, and the SHA-256 of the weights that drew the images."""

    marks: Sequence[Mark]
    weights: str


def read_marks(file: Path) -> MarksFile:
    """Return the content of a file that the page saved. Raises ValueError if the file is not valid."""
    if not file.is_file():
        raise ValueError(f'marks={file}: no such file; the button "Save marks" of the report writes it')
    if file.stat().st_size > _MAX_BYTES:
        raise ValueError(f"marks={file}: a file of marks must have at most {_MAX_BYTES} bytes")
    try:
        content = json.loads(file.read_text("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"marks={file}: cannot be read as JSON: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT or not isinstance(content.get("marks"), list):
        raise ValueError(f"marks={file}: not a file of marks ({FORMAT})")
    marks = [_checked(mark, f"marks={file}: mark {number}") for number, mark in enumerate(content["marks"])]
    return MarksFile(marks, str(content.get("weights", "")))


def counted(marks: Iterable[Mark], images: Collection[str]) -> tuple[int, int]:
    """Return how many of these images are approved and how many rejected; one that anybody rejects is not approved."""
    verdicts: dict[str, set[str]] = {}
    for mark in marks:
        if mark.image in images:
            verdicts.setdefault(mark.image, set()).add(mark.verdict)
    rejected = sum("reject" in one for one in verdicts.values())
    return sum("approve" in one for one in verdicts.values() if "reject" not in one), rejected


def merged(*several: Iterable[Mark]) -> list[Mark]:
    """Return one mark for each reviewer and image: the latest; of marks of equal time the last."""
    by_time = sorted(chain(*several), key=lambda mark: mark.time)
    return list({(mark.image, mark.reviewer): mark for mark in by_time}.values())


def _checked(mark: Any, where: str) -> Mark:
    if not isinstance(mark, dict):
        raise ValueError(f"{where}: not a mapping")  # noqa: TRY004
    for field, longest in _FIELDS.items():
        value = mark.get(field)
        if not isinstance(value, str) or len(value) > longest:
            raise ValueError(f"{where}: {field} must be text of at most {longest} characters")
    if mark["verdict"] not in VERDICTS:
        raise ValueError(f"{where}: verdict {mark['verdict']!r} must be approve, reject or empty")
    if not (mark["verdict"] or mark["remark"]):
        raise ValueError(f"{where}: needs a verdict or a remark")
    if type(mark.get("seed")) is not int:
        raise ValueError(f"{where}: seed must be a whole number")
    return Mark(**{field: mark[field] for field in (*_FIELDS, "seed")})
