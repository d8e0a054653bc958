"""Brand logos of Simple Icons in their brand's colour on white, captioned "the <title> logo".

Simple Icons, https://simpleicons.org, is a CC0 collection; some icons have other licences. A licence covers the
drawing; the logos remain trademarks of their owners, whose rules are linked in `guidelines`.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from diffusion_train.prepare.packages import cached_shards, draw_svg
from diffusion_train.prepare.source.base import Entry, Record, require

log = logging.getLogger(__name__)

_COLLECTION = "CC0-1.0"
_NEARLY_WHITE = 0xD8  # of 0xFF, in each of red, green and blue


@dataclass(frozen=True)
class SimpleIcons:
    """A source of logos of `size` x `size` pixels. Iterating yields the paths of shards of them.

    With `brand`, such as "Google", only logos whose title begins with this word are used. The shards, which are made on
    first use, contain icons under the collection's CC0-1.0 and under `allowed_licenses` (SPDX names such as "MIT", or
    the address that an icon gives as its licence). As a source it yields every icon; `prepare` then selects by licence.
    """

    size: int = 32
    allowed_licenses: Sequence[str] = ()
    brand: str = ""
    packages: ClassVar = ("simple-icons-pack", "resvg-py")

    def __post_init__(self) -> None:
        for module in ("simple_icons_pack", "resvg_py"):
            require(module)

    def __iter__(self) -> Iterator[str]:
        """Yield the paths of shards of png, txt (the caption) and json (licence, source, guidelines, title, colour)."""
        brand = {"brand": self.brand} if self.brand else {}
        settings = {"size": self.size, "allowed_licenses": sorted(self.allowed_licenses), **brand}
        return iter(map(str, cached_shards("simple_icons", self.packages, settings, self._allowed)))

    def total(self) -> int:
        return len(of_brand(all_icons(), self.brand))

    def entries(self, skip: int = 0) -> Iterator[Entry]:
        return (_entry(icon, self.size) for icon in of_brand(all_icons(), self.brand))

    def _allowed(self) -> Iterator[Entry]:
        icons, dropped = by_license(self.allowed_licenses)
        counts = ", ".join(f"{license} {count}" for license, count in dropped.most_common())
        log.info("%d logos; %d left out because of their licence: %s", len(icons), dropped.total(), counts or "none")
        return (_entry(icon, self.size) for icon in of_brand(icons, self.brand))


def all_icons() -> list[Any]:
    """Return all icons, sorted by slug."""
    package = require("simple_icons_pack")
    return sorted((getattr(package, name) for name in dir(package) if name.startswith("SI_")), key=lambda i: i.slug)


def of_brand(icons: Sequence[Any], brand: str) -> list[Any]:
    """Return the icons whose title begins with `brand`, all of them for "". Raises ValueError if there are none."""
    word = brand.casefold()
    found = [icon for icon in icons if not word or f"{icon.title.casefold()} ".startswith(f"{word} ")]
    if not found:
        raise ValueError(f"brand={brand}: no icon's title begins with this word")
    return found


def by_license(allowed_licenses: Sequence[str] = ()) -> tuple[list[Any], Counter[str]]:
    """Return the icons to use, sorted by slug, and how many were dropped under each licence.

    Raises ValueError for an allowed licence that no icon has.
    """
    icons = all_icons()
    unknown = set(allowed_licenses) - {_license(icon) for icon in icons}
    if unknown:
        known = ", ".join(sorted({_license(icon) for icon in icons} - {_COLLECTION}))
        raise ValueError(f"allowed_licenses: no icon has {', '.join(sorted(unknown))}; use {known}")
    allowed = {_COLLECTION, *allowed_licenses}
    dropped = Counter(_license(icon) for icon in icons if _license(icon) not in allowed)
    return [icon for icon in icons if _license(icon) in allowed], dropped


def _entry(icon: Any, size: int) -> Entry:
    colour = _visible(icon.hex.lstrip("#"))
    svg = icon.svg.replace("<svg ", f'<svg fill="#{colour}" ', 1)
    facts = {
        "title": icon.title,
        "license": _license(icon),
        "source": icon.source,
        "guidelines": icon.guidelines,
        "brand_colour": icon.hex.lstrip("#"),
        "colour": colour,
    }
    return Entry(icon.slug, partial(_draw, svg, size, f"the {icon.title} logo", facts))


def _draw(svg: str, size: int, caption: str, facts: dict[str, Any]) -> Record:
    return Record(draw_svg(svg, size), caption, facts)


def _license(icon: Any) -> str:
    return icon.license or _COLLECTION


def _visible(colour: str) -> str:
    """Return a colour RRGGBB, or black if it would be invisible on white."""
    channels = [int(colour[i : i + 2], 16) for i in (0, 2, 4)]
    return colour if min(channels) < _NEARLY_WHITE else "000000"
