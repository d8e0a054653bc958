"""A report as one page that needs nothing else: it may load nothing, and runs one script of its own."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from pathlib import Path
from typing import Any

from diffusion_train.report import marks
from diffusion_train.report.html.details import details
from diffusion_train.report.html.elements import text
from diffusion_train.report.html.gallery import gallery
from diffusion_train.report.html.verdicts import made, verdicts


def page(report: dict[str, Any], folder: Path) -> str:
    """`folder` holds the report's pictures, <hash>.png."""
    style, script = (resources.files(__package__).joinpath(name).read_text("utf-8") for name in ("page.css", "page.js"))
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
        f"<title>Brand report: {text(report['name'], 80)}</title><style>{style}</style>"
    )
    body = (
        f'<header><p class="kicker">Brand report</p><h1>{text(report["name"], 120)}</h1><p class="made">{made(report)}</p></header>'
        f"<main>{verdicts(report)}{_toolbar(report)}{gallery(report, folder)}"
        f'<h2 class="part">The figures, and what they mean</h2>{details(report)}</main>'
    )
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{body}<script>{script}</script></body></html>'


def _toolbar(report: dict[str, Any]) -> str:
    data = f'data-format="{marks.FORMAT}" data-run="{text(report["name"], 120)}" data-weights="{text(report["weights"], 64)}"'
    shows = "".join(
        f'<label><input type="radio" name="show" value="{value}"{" checked" if value == "all" else ""}>{label}</label>'
        for value, label in {"all": "all", "flagged": "flagged", "open": "not judged yet"}.items()
    )
    return (
        f'<div class="toolbar" {data}><p id="progress" aria-live="polite"></p><fieldset><legend>Show</legend>{shows}</fieldset>'
        '<label>Your name <input id="reviewer" maxlength="200" autocomplete="name"></label>'
        '<button type="button" id="save">Save marks</button><noscript>Marks need JavaScript.</noscript></div>'
        '<p class="hint">Approve or reject below. <b>Save marks</b> gives you the file marks.json; who keeps the run takes it in with '
        "<code>diffusion-train report run=… marks=marks.json</code>.</p>"
    )


def _hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
