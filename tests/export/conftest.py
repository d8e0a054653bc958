from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def _tiny_pipelines() -> ModuleType:
    file = Path(__file__).parents[1] / "tiny_pipelines.py"
    spec = importlib.util.spec_from_file_location("tiny_pipelines", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """name of a tiny pipeline -> its folder, made once."""
    module: Any = _tiny_pipelines()
    folder = tmp_path_factory.mktemp("tiny")

    def make(name: str) -> Path:
        place: Path = folder / name
        return place if place.is_dir() else module.make(name, place)

    return make
