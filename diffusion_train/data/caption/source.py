"""Where the captions of a sample stand."""

from __future__ import annotations

import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Protocol

from diffusion_train.data.caption.fault import decode, is_utf8
from diffusion_train.data.caption.metadata import field_texts, parse_path

Members = Mapping[str, bytes]  # extension -> contents
_LINE_END = re.compile(r"\r\n|\r|\n")


class Source(Protocol):
    """`extensions` are the members that are read, `settings` names what decides the captions beside these.

    `keys` are those of the samples that have captions, None where their members alone decide.
    """

    extensions: tuple[str, ...]
    name: str  # of what is read, in messages
    settings: str
    keys: AbstractSet[str] | None

    def texts(self, members: Members, key: str) -> list[str]:
        """All captions as they stand, blank ones too; none where there is none. Raises CaptionError."""

    def is_utf8(self, members: Members, key: str) -> bool: ...


class TextMember:
    """One text a sample, in `key.<extension>`; with `lines` each line is a caption of its own."""

    keys: AbstractSet[str] | None = None

    def __init__(self, extension: str = "txt", lines: bool = False) -> None:
        self.lines = lines
        self.extensions: tuple[str, ...] = (_extension(extension),)
        self.name = f"caption ({extension})"
        self.settings = f"{extension}, lines={lines}"

    def texts(self, members: Members, key: str) -> list[str]:
        if (data := members.get(self.extensions[0])) is None:
            return []
        text = decode(data)
        return _LINE_END.split(text) if self.lines else [text]

    def is_utf8(self, members: Members, key: str) -> bool:
        return is_utf8(members.get(self.extensions[0], b""))


class JsonMember:
    """A field of `key.<extension>`, named by the keys that lead to it: `caption`, `annotation.title`.

    A list there, or on the way there, holds several captions.
    """

    keys: AbstractSet[str] | None = None

    def __init__(self, field: str = "caption", extension: str = "json") -> None:
        self.path = parse_path(field, "data.captions.source.field")
        self.extensions: tuple[str, ...] = (_extension(extension),)
        self.name = f"{field} in {extension}"
        self.settings = f"{extension}: {field}"

    def texts(self, members: Members, key: str) -> list[str]:
        data = members.get(self.extensions[0])
        return [] if data is None else field_texts(data, self.path)

    def is_utf8(self, members: Members, key: str) -> bool:
        return is_utf8(members.get(self.extensions[0], b""))


def _extension(name: str) -> str:
    if not name or name != name.lower().lstrip(".") or "/" in name:
        raise ValueError(
            f"data.captions.source.extension={name}: a member's lower-case ending without its dot, as in txt"
        )
    return name
