"""Where the captions of a sample stand."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Protocol

from diffusion_train.data.caption.fault import decode, is_utf8
from diffusion_train.data.caption.metadata import field_texts, parse_path

Members = Mapping[str, bytes]  # extension -> contents
_LINE_END = re.compile(r"\r\n|\r|\n")


class Source(Protocol):
    """`extensions` are the members that are read, `settings` names what decides the captions beside these."""

    extensions: tuple[str, ...]
    name: str  # of what is read, in messages
    settings: str

    def has(self, key: str) -> bool:
        """False where a sample of this key has no caption, whatever its members hold."""

    def keys(self) -> Sequence[str] | None:
        """Of the samples that have captions; None where their members alone decide."""

    def texts(self, members: Members, key: str) -> list[str]:
        """All captions as they stand, blank ones too; none where there is none. Raises CaptionError."""

    def is_utf8(self, members: Members, key: str) -> bool: ...


class Member(ABC):
    """A member of each sample, `key.<extension>`, which alone decides whether it has captions."""

    def __init__(self, extension: str) -> None:
        if not extension or extension != extension.lower().lstrip(".") or "/" in extension:
            raise ValueError(
                f"data.captions.source.extension={extension}: a member's lower-case ending without its dot, as in txt"
            )
        self.extensions: tuple[str, ...] = (extension,)

    def has(self, key: str) -> bool:
        return True

    def keys(self) -> None:
        return None

    def texts(self, members: Members, key: str) -> list[str]:
        data = members.get(self.extensions[0])
        return [] if data is None else self.read(data)

    @abstractmethod
    def read(self, data: bytes) -> list[str]:
        """The captions that the member's contents are."""

    def is_utf8(self, members: Members, key: str) -> bool:
        return is_utf8(members.get(self.extensions[0], b""))


class TextMember(Member):
    """One text a sample, in `key.<extension>`; with `lines` each line is a caption of its own."""

    def __init__(self, extension: str = "txt", lines: bool = False) -> None:
        super().__init__(extension)
        self.lines = lines
        self.name = f"caption ({extension})"
        self.settings = f"{extension}, lines={lines}"

    def read(self, data: bytes) -> list[str]:
        text = decode(data)
        return _LINE_END.split(text) if self.lines else [text]


class JsonMember(Member):
    """A field of `key.<extension>`, named by the keys that lead to it: `caption`, `annotation.title`.

    A list there, or on the way there, holds several captions.
    """

    def __init__(self, field: str = "caption", extension: str = "json") -> None:
        super().__init__(extension)
        self.path = parse_path(field, "data.captions.source.field")
        self.name = f"{field} in {extension}"
        self.settings = f"{extension}: {field}"

    def read(self, data: bytes) -> list[str]:
        return field_texts(data, self.path)
