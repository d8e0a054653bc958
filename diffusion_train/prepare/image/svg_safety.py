"""Refuse an SVG that refers to anything outside itself, before anything reads it to draw it.

Only the text is parsed, by expat, which loads no entity and no file.
"""

from __future__ import annotations

import re
from typing import Any
from xml.parsers import expat

from diffusion_train.data.image.header import ImageError

SVG = "http://www.w3.org/2000/svg"
_W3C = re.compile(r"-//W3C//DTD SVG 1\.[01].*//EN")
_URL = re.compile(r"url\s*\(\s*['\"]?\s*(?!#)[^\s'\")]", re.IGNORECASE)
_IMPORT = re.compile(r"@import|image(-set)?\s*\(|\\", re.IGNORECASE)
_TEXT = {"text", "tspan", "textPath", "flowRoot"}
_NOT_DRAWN = {"script", "foreignObject", "iframe", "audio", "video", "animate", "animateTransform", "set"}
_NAMES_A_RESOURCE = {"href", "src", "base"}


class OutsideReference(ImageError):
    """An SVG that refers to something outside itself."""


def checked_svg(data: bytes) -> tuple[str, dict[str, str]]:
    """Return the text of an SVG and the attributes of its root.

    Raises OutsideReference, and ImageError for what is not a UTF-8 SVG, for text that needs a font, and for scripts.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ImageError("an SVG must be UTF-8") from error
    reader = _Reader()
    try:
        reader.parser.Parse(text, True)
    except expat.ExpatError as error:
        raise ImageError(f"not well-formed XML ({error})") from error
    return text, reader.root


class _Reader:
    """Reads an SVG and raises at the first thing that is not allowed."""

    def __init__(self) -> None:
        self.root: dict[str, str] = {}
        self._depth, self._styles, self._style = 0, 0, ""
        # the encoding is given, so that a declaration cannot make expat read another text than the one that is drawn
        self.parser = expat.ParserCreate("utf-8", namespace_separator=" ")
        self.parser.StartDoctypeDeclHandler = self._doctype
        self.parser.EntityDeclHandler = _refuse_entity
        self.parser.ProcessingInstructionHandler = _refuse_instruction
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._characters

    def _doctype(self, name: str, system: str | None, public: str | None, has_subset: int) -> None:
        if has_subset or (system and not _W3C.fullmatch(public or "")):
            raise OutsideReference("a document type with declarations; save it as plain SVG")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        namespace, _, local = name.rpartition(" ")
        if not self._depth:
            if (namespace, local) != (SVG, "svg"):
                raise ImageError(f"not an SVG: its root is <{local}>")
            self.root = attributes
        self._depth += 1
        self._styles += local == "style"
        if namespace.endswith("XInclude"):
            raise OutsideReference(f"<{local}> of XInclude")
        if namespace == SVG and local in _TEXT:
            raise ImageError("text needs a font that may be missing here; convert it to paths")
        if namespace == SVG and local in _NOT_DRAWN:
            raise ImageError(f"<{local}> would not be drawn; export a still image")
        for attribute, value in attributes.items():
            self._attribute(attribute.rpartition(" ")[2], value)

    def _attribute(self, name: str, value: str) -> None:
        if name in _NAMES_A_RESOURCE and not value.strip().startswith("#"):
            raise OutsideReference(f'{name}="{value[:60]}"; remove the reference, or export the SVG as PNG')
        _refuse_style(value, is_style=name == "style")

    def _end(self, name: str) -> None:
        self._depth -= 1
        self._styles -= name.rpartition(" ")[2] == "style"
        if self._style and not self._styles:
            _refuse_style(self._style, is_style=True)
            self._style = ""

    def _characters(self, text: str) -> None:
        if self._styles:
            self._style += text  # as a whole: expat may cut a word in two


def _refuse_style(text: str, is_style: bool) -> None:
    """Raises OutsideReference for url() of anything but a part of the SVG,
    and in styles for what may hide or import one.
    """
    if found := _URL.search(text) or (_IMPORT.search(text) if is_style else None):
        raise OutsideReference(f"{text[found.start() : found.start() + 60].strip()!r} in a style or an attribute")


def _refuse_entity(name: str, *_: Any) -> None:
    raise OutsideReference(f"the entity {name}; save it as plain SVG")


def _refuse_instruction(target: str, data: str) -> None:
    raise OutsideReference(f"the processing instruction {target}")
