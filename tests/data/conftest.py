from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffusion_train.data.shards import write_shards

MakePng = Callable[..., bytes]


def _png(number: int, width: int = 20, height: int = 16) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "png")
    return out.getvalue()


@pytest.fixture(autouse=True)
def _private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFUSION_TRAIN_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def make_png() -> MakePng:
    return _png


@pytest.fixture
def make_shards(tmp_path: Path) -> Callable[..., list[Path]]:
    """Shards of samples k00000, k00001, ... with noise for images and "caption <number>"."""

    def make(num_samples: int, per_shard: int, folder: str = "shards") -> list[Path]:
        samples = (
            {"__key__": f"k{i:05d}", "png": _png(i), "txt": f"caption {i}", "json": {"number": i}}
            for i in range(num_samples)
        )
        return write_shards(samples, tmp_path / folder, "part", per_shard)

    return make


@pytest.fixture
def make_tar(tmp_path: Path) -> Callable[..., Path]:
    """A tar of (name, contents) pairs, or of prepared headers, in a format of the tarfile module."""

    def make(members: list, name: str = "made.tar", tar_format: int = tarfile.USTAR_FORMAT) -> Path:
        path = tmp_path / name
        with tarfile.open(path, "w", format=tar_format) as archive:
            for member in members:
                info, contents = member if isinstance(member, tuple) else (member, b"")
                if isinstance(info, str):
                    info = tarfile.TarInfo(info)
                    info.size = len(contents)
                archive.addfile(info, io.BytesIO(contents))
        return path

    return make
