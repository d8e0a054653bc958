"""Images from Python packages, drawn from SVG and kept as shards in the cache folder."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from diffusion_train.data.shard.writer import Sample, write_shards
from diffusion_train.prepare.source.base import Entry, LeftOut, require
from diffusion_train.utils.files import cache_folder

_FORMAT = 1  # increase it when the same packages would give other samples
_SAMPLES_PER_SHARD = 512


def draw_svg(svg: str, size: int) -> bytes:
    """Draw an SVG on white and return it as an RGB PNG of size x size pixels, antialiased by resvg."""
    rendered = require("resvg_py").svg_to_bytes(
        svg_string=svg, width=size, height=size, background="#ffffff", skip_system_fonts=True
    )
    out = io.BytesIO()
    Image.open(io.BytesIO(bytes(rendered)), formats=["PNG"]).convert("RGB").save(out, "PNG")
    return out.getvalue()


def cached_shards(
    name: str, packages: Sequence[str], settings: dict[str, Any], entries: Callable[[], Iterable[Entry]]
) -> list[Path]:
    """Return the paths of shards of `entries()`, which are written once for these versions of packages and settings."""
    key = repr((_FORMAT, [(package, version(package)) for package in packages], sorted(settings.items())))
    folder = cache_folder() / "shards" / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    return sorted(folder.glob("*.tar")) or write_shards(_samples(name, entries()), folder, name, _SAMPLES_PER_SHARD)


def _samples(name: str, entries: Iterable[Entry]) -> Iterator[Sample]:
    entries = list(entries)
    for entry in tqdm(entries, f"Drawing {name}", unit="image", mininterval=0.5, disable=None):
        assert not isinstance(entry.read, LeftOut)
        image, caption, facts = entry.read()
        yield {"__key__": entry.name, "png": image, "txt": caption, "json": facts}
