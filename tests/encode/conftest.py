from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_pipelines


@pytest.fixture(autouse=True)
def _private_cache(private_cache: None) -> None:
    """Every test here."""


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipelines.sd15(tmp_path_factory.mktemp("sd15"))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "encoded"
    folder.mkdir()
    return folder


@pytest.fixture
def damage() -> Callable[[Path], None]:
    """As a disk does it, unnoticed: in what the first entry of a shard holds."""

    def damage(shard: Path) -> None:
        times = shard.stat()
        with shard.open("r+b") as file:
            file.seek(1024 + 1500)
            file.write(b"\0\1\2\3")
        os.utime(shard, ns=(times.st_atime_ns, times.st_mtime_ns))

    return damage
