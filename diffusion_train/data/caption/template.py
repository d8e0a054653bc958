"""A caption put into a text around it.

Captions are untrusted text: they are joined in, and never read as a format.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from diffusion_train.data.caption.metadata import Path, parse_path

CAPTION: Path = ()  # where other paths lead to a field of the sample's JSON
_PART = re.compile(r"\{\{|\}\}|\{[^{}]*\}|[{}]|[^{}]+")
_BRACES = {"{{": "{", "}}": "}"}
_KEY = "data.captions.templates"


class Template:
    """`{caption}`, `{trigger}` and `{json.<field>}` stand for what they name, `{{` and `}}` for a brace.

    ValueError for other names, single braces, and `{trigger}` where there is none.
    """

    def __init__(self, text: str, trigger: str) -> None:
        self.names_trigger = "{trigger}" in _PART.findall(text)
        if self.names_trigger and not trigger:
            raise ValueError(f"{_KEY}: {text!r} names {{trigger}}, but data.captions.trigger is empty")
        self.parts = [trigger if part == "{trigger}" else _read(part, text) for part in _PART.findall(text)]
        self.words = "\n".join(part for part in self.parts if isinstance(part, str))  # of its own
        self.paths = [part for part in self.parts if not isinstance(part, str)]

    def render(self, values: Mapping[Path, str]) -> str:
        return "".join(part if isinstance(part, str) else values[part] for part in self.parts)


def _read(part: str, text: str) -> str | Path:
    """The text itself, or the path of what the part stands for."""
    if part[0] not in "{}":
        return part
    if part in _BRACES:
        return _BRACES[part]
    if part == "{caption}":
        return CAPTION
    if part.startswith("{json."):
        return parse_path(part[len("{json.") : -1], f"{_KEY}: {text!r}: json")
    known = "it may name {caption}, {trigger} and {json.<field>}; a brace is written {{ or }}"
    raise ValueError(f"{_KEY}: {text!r} has {part!r}: {known}")
