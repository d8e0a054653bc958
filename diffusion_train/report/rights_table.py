"""Under which rights the images are that a run, its base, and the base's base were trained on."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from diffusion_train import config
from diffusion_train.license import MEANING, UNKNOWN, normalise, terms
from diffusion_train.pretrained.model_license import license_of

_MAX_BYTES = 64 << 20
_MAX_BASES = 8


def rights(run: Path, pretrained: str | None, license: str | None = None) -> list[dict[str, Any]]:
    """The run's own images first, then those of each model below it.

    `license`: of the model that all stands on, as the run's record has it; where that has none, its files are asked.
    """
    found = [{"role": "images of this run", **_of_run(run)}]
    while pretrained and len(found) <= _MAX_BASES:
        folder = Path(pretrained)
        if not (folder / "config.yaml").is_file():
            found.append({"role": "base model", **_of_model(folder, license or license_of(folder))})
            break
        found.append({"role": f"images of the base, {folder.name}", **_of_run(folder)})
        below = config.load_run_config(folder)
        pretrained, license = below.get("pretrained"), license or below.get("base_record", {}).get("license")
        if license and not pretrained:  # of a run from nothing, as somebody said who trained on it
            found.append({"role": "base model", **_of_model(folder, license)})
    return found


def asked_for(entries: list[dict[str, Any]]) -> dict[str, str]:
    """Term -> what it means, of everything that any licence asks for; MEANING's order."""
    terms_found = {term for entry in entries for one in entry["licenses"] for term in one["terms"]}
    return {term: meaning for term, meaning in MEANING.items() if term in terms_found}


def _of_run(folder: Path) -> dict[str, Any]:
    facts = _read_json((folder if folder.is_dir() else folder.parent) / "data.json")
    counts = facts.get("licenses")
    if not isinstance(counts, dict) or not counts:
        return {"images": facts.get("samples"), "licenses": [_license(UNKNOWN, facts.get("samples"))], "sources": {}}
    merged: Counter[str] = Counter()
    for name, count in counts.items():
        merged[normalise(str(name))] += int(count)
    return {
        "images": facts.get("samples"),
        "licenses": [_license(name, count) for name, count in merged.most_common()],
        "sources": {str(name): count for name, count in facts.get("sources", {}).items()},
        "fingerprint": str(facts.get("fingerprint", ""))[:64],
    }


def _of_model(folder: Path, license: str | None) -> dict[str, Any]:
    return {"images": None, "licenses": [_license(normalise(license), None)], "sources": {folder.name: None}}


def _license(name: str, images: int | None) -> dict[str, Any]:
    return {"name": name, "images": images, "terms": list(terms(name))}


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file() or file.stat().st_size > _MAX_BYTES:
        return {}
    try:
        facts = json.loads(file.read_text("utf-8", "replace"))
    except (ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}
