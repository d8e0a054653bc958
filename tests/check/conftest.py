from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from diffusion_train.command import cli

Report = list[dict[str, Any]] | None


@pytest.fixture(autouse=True)
def _private_cache(private_cache: None) -> None:
    """Every test here."""


@pytest.fixture
def check(tmp_path: Path) -> Callable[..., tuple[int, Report]]:
    """(shards, settings) -> exit code and report of `diffusion-train check`, which writes into `out`."""

    def run(shards: Sequence[Path], *settings: str) -> tuple[int, Report]:
        names = ",".join(f"'{shard}'" for shard in shards)
        out = tmp_path / "out"
        code = cli.main(["check", f"data.shards=[{names}]", f"out={out}", "data.image_size=16", *settings])
        report = out / "report.json"
        return code, json.loads(report.read_text("utf-8")) if report.exists() else None

    return run
