"""Insert a caption into a template.

Captions are untrusted text: they are inserted, and never interpreted as a format.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from diffusion_train.data.caption.metadata import Path, parse_path

CAPTION: Path = ()  # the caption; other paths are those of fields in the sample's JSON
_PART = re.compile(r"\{\{|\}\}|\{[^{}]*\}|[{}]|[^{}]+")
_BRACES = {"{{": "{", "}}": "}"}
_KEY = "data.captions.templates"


class Template:
    """A text with `{caption}`, `{trigger}` and `{json.<field>}`; `{{` and `}}` are braces.

    Raises ValueError for other names, for single braces, and for `{trigger}` if `trigger` is empty.
    """

    def __init__(self, text: str, trigger: str) -> None:
        self.names_trigger = "{trigger}" in _PART.findall(text)
        if self.names_trigger and not trigger:
            raise ValueError(f"{_KEY}: {text!r} contains {{trigger}}, but data.captions.trigger is empty")
        self.parts = [trigger if part == "{trigger}" else _read(part, text) for part in _PART.findall(text)]
        self.words = "\n".join(part for part in self.parts if isinstance(part, str))  # the template's own text
        self.paths = [part for part in self.parts if not isinstance(part, str)]

    def render(self, values: Mapping[Path, str]) -> str:
        return "".join(part if isinstance(part, str) else values[part] for part in self.parts)


def _read(part: str, text: str) -> str | Path:
    """Return the text of a part, or the path of the field that replaces it."""
    if part[0] not in "{}":
        return part
    if part in _BRACES:
        return _BRACES[part]
    if part == "{caption}":
        return CAPTION
    if part.startswith("{json."):
        return parse_path(part[len("{json.") : -1], f"{_KEY}: {text!r}: json")
    known = "use {caption}, {trigger} and {json.<field>}; write a brace as {{ or }}"
    raise ValueError(f"{_KEY}: {text!r} contains {part!r}; {known}")
