from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from diffusion_train.prepare.source.base import LeftOut, Record, Source


@pytest.fixture(autouse=True)
def _private_cache(private_cache: None) -> None:
    """Every test here."""


@pytest.fixture
def write(tmp_path: Path) -> Callable[[dict], Path]:
    """A folder of files: bytes, text, or anything else as JSON, by their path in it."""

    def make(files: dict, folder: str = "photos") -> Path:
        root = tmp_path / folder
        for name, content in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            text = content if isinstance(content, str | bytes) else json.dumps(content)
            path.write_bytes(text.encode() if isinstance(text, str) else text)
        return root

    return make


def read_all(source: Source) -> dict[str, Record | LeftOut]:
    """What becomes of every entry, by its key, or its name where it has none."""
    found: dict[str, Record | LeftOut] = {}
    entries = list(source.entries())
    assert source.total() == len(entries)
    for entry in entries:
        name, read = entry.key or entry.name, entry.read
        try:
            found[name] = read if isinstance(read, LeftOut) else read()
        except LeftOut as reason:
            found[name] = reason
    assert len(found) == len(entries)
    return found


@pytest.fixture
def read() -> Callable[[Source], dict[str, Record | LeftOut]]:
    return read_all
