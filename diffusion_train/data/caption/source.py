"""Sources of captions: where the captions of a sample are read from."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Protocol

from diffusion_train.data.caption.fault import decode
from diffusion_train.data.caption.metadata import field_texts, parse_path

Members = Mapping[str, bytes]  # extension -> contents
_LINE_END = re.compile(r"\r\n|\r|\n")


class Source(Protocol):
    """A source of captions.

    `extensions` are the members that it reads; `settings` describes it, with all it depends on.
    """

    extensions: tuple[str, ...]
    name: str  # of a caption, in messages
    settings: str

    def has(self, key: str) -> bool:
        """Return False if the sample has no caption, whatever its members contain."""

    def keys(self) -> Sequence[str] | None:
        """Return the keys of samples with captions, or None if that depends on their members."""

    def texts(self, members: Members, key: str) -> list[str]:
        """Return all captions unchanged, blank ones too; empty if there are none. Raises CaptionError."""


class Member(ABC):
    """A source that reads one member of each sample, `key.<extension>`."""

    def __init__(self, extension: str) -> None:
        if not extension or extension != extension.lower().lstrip(".") or "/" in extension:
            raise ValueError(
                f"data.captions.source.extension={extension}: must be in lower case without a dot, such as txt"
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
        """Return the captions in the contents of the member. Raises CaptionError."""


class TextMember(Member):
    """The text in `key.<extension>`; with `lines` each line is a separate caption."""

    def __init__(self, extension: str = "txt", lines: bool = False) -> None:
        super().__init__(extension)
        self.lines = lines
        self.name = f"caption ({extension})"
        self.settings = f"{extension}, lines={lines}"

    def read(self, data: bytes) -> list[str]:
        text = decode(data)
        return _LINE_END.split(text) if self.lines else [text]


class JsonMember(Member):
    """A field in the JSON of `key.<extension>`, named by its path, such as `caption` or `annotation.title`.

    A list at the field or on its path gives several captions.
    """

    def __init__(self, field: str = "caption", extension: str = "json") -> None:
        super().__init__(extension)
        self.path = parse_path(field, "data.captions.source.field")
        self.name = f"{field} in {extension}"
        self.settings = f"{extension}: {field}"

    def read(self, data: bytes) -> list[str]:
        return field_texts(data, self.path)


class JsonField(JsonMember):
    """A field that a template names. It may be any number, written as it is."""

    def read(self, data: bytes) -> list[str]:
        return field_texts(data, self.path, any_number=True)
