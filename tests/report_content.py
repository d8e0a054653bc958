"""The content of a report.json, full of what others could have written."""

from __future__ import annotations

from typing import Any

WEIGHTS = "0" * 64
HOSTILE = "<script>alert(1)</script> \u202e\x1b[2J {caption} \" onload='x' ${name} &amp; </style>"
PICTURES = {"a" * 32: "red", "b" * 32: "blue", "c" * 32: "green"}


def sample(image: str, kind: str = "brand", flagged: bool = False, **other: Any) -> dict[str, Any]:
    pair = {"relative": 0.25, "near": flagged, "image": "c" * 32, "key": HOSTILE, "caption": HOSTILE}
    measures = ("hash", "features", "thumbnail")
    copying = {"p": 0.5, "flagged": flagged, **dict.fromkeys(measures, pair)}
    plain = {"set": kind, "prompt": HOSTILE, "seed": 0, "before": "b" * 32, "image": image, "own": "c" * 32}
    return {**plain, "likeness": 0.4, "copying": copying, **other}


def report(**other: Any) -> dict[str, Any]:
    """The content of a report.json."""
    close = {"kid": 1.0, "kid_error": 0.2, "likeness": 0.4, "colours": 5.0}
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
        "format": 2,
        "name": HOSTILE,
        "brand": HOSTILE,
        "owner": HOSTILE,
        "base": HOSTILE,
        "data": {"train": 4, "train_seen": 4, "held_out": 10, "held_out_seen": 10, "reference": "held-out images"},
        "prompts": {kind: {"count": 1, "origin": "given"} for kind in ("brand", "general")},
        "fidelity": {
            "extractor": "efflite0",
            "samples": 2,
            **dict.fromkeys(("base", "run", "floor"), close),
            "palettes": {"brand": swatches, "run": swatches},
            "change": {"value": -1.5, "error": 0.3},
            "changed": 0.2,
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
        "brand_images": [{"image": "c" * 32, "caption": HOSTILE}],
        "sweep": {"rows": rows, "goals": ["kid"]},
        "rights": [{"role": HOSTILE, "images": 4, "licenses": licenses, "sources": {}}],
        "made": "2026-01-01T00:00:00+00:00",
        "version": "0",
        "weights": WEIGHTS,
        "scale": 1.0,
        "step": 7,
        "changed": [],
        "marks": [],
    }
    return {**content, **other}
