"""Rights of the images that a run, its base, and the base's own base were trained on."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffusion_train import config
from diffusion_train.pretrained.model_license import license_of
from diffusion_train.report.facts import LicenseCount, Rights
from diffusion_train.rights.license import MEANING, UNKNOWN, normalise, terms

_MAX_BYTES = 64 << 20
_MAX_BASES = 8


def rights(run: Path, pretrained: str | None, license: str | None = None) -> list[Rights]:
    """Return the rights of the run's own images, then of each model below it.

    `license` is that of the lowest model according to the run's record; None reads it from the model's files.
    """
    entries = [_of_run("images of this run", run)]
    while pretrained and len(entries) <= _MAX_BASES:
        folder = Path(pretrained)
        if not (folder / "config.yaml").is_file():
            entries.append(_of_model(folder, license or license_of(folder)))
            break
        entries.append(_of_run(f"images of the base, {folder.name}", folder))
        below = config.load_run_config(folder)
        pretrained, license = below.get("pretrained"), license or below.get("base_record", {}).get("license")
        if license and not pretrained:  # a licence that somebody recorded for a run that started from nothing
            entries.append(_of_model(folder, license))
    return entries


def asked_for(entries: Sequence[Rights]) -> dict[str, str]:
    """Return term -> meaning of everything that any licence asks for, in the order of MEANING."""
    terms_found = {term for entry in entries for one in entry.licenses for term in one.terms}
    return {term: meaning for term, meaning in MEANING.items() if term in terms_found}


def affected(entries: Sequence[Rights], term: str) -> str:
    """Return which images or models have a licence with this term, such as "9 images of this run, base model"."""
    counts = [(entry.role, [one.images for one in entry.licenses if term in one.terms]) for entry in entries]
    return ", ".join(_amount(sum(filter(None, some)), role) for role, some in counts if some)


def _amount(images: int, role: str) -> str:
    return f"{images:,} {role.replace('images', 'image', 1) if images == 1 else role}" if images else role


def _of_run(role: str, folder: Path) -> Rights:
    data = _read_json((folder if folder.is_dir() else folder.parent) / "data.json")
    images, counts = data.get("samples"), data.get("licenses")
    if not isinstance(counts, dict) or not counts:
        return Rights(role, images, [_license(UNKNOWN, images)], {})
    merged: Counter[str] = Counter()
    for name, count in counts.items():
        merged[normalise(str(name))] += int(count)
    licenses = [_license(name, count) for name, count in merged.most_common()]
    sources = {str(name): count for name, count in data.get("sources", {}).items()}
    return Rights(role, images, licenses, sources, fingerprint=str(data.get("fingerprint", ""))[:64])


def _of_model(folder: Path, license: str | None) -> Rights:
    return Rights("base model", None, [_license(normalise(license), None)], {folder.name: None})


def _license(name: str, images: int | None) -> LicenseCount:
    return LicenseCount(name, images, list(terms(name)))


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file() or file.stat().st_size > _MAX_BYTES:
        return {}
    try:
        content = json.loads(file.read_text("utf-8", "replace"))
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
