"""The recipes of CONTRIBUTING.md: one file and one YAML each, nothing else touched."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
RECIPES = dict(re.findall(r"^## (A .*?)\n(.*?)(?=^## |\Z)", TEXT, re.DOTALL | re.MULTILINE))
FILE = re.compile(r"^`([\w/.]+)`\n\n```\w+\n(.*?)```", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"^python (train\.py .*)$", re.MULTILINE)


def test_there_is_a_recipe_for_each_family() -> None:
    assert list(RECIPES) == ["A schedule", "A sampler", "A network", "A conditioner"]


@pytest.mark.slow
@pytest.mark.parametrize("title", RECIPES)
def test_recipe_runs(title: str, tmp_path: Path) -> None:
    for name in ("diffusion_train", "conf"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "train.py", tmp_path)
    files = FILE.findall(RECIPES[title])
    assert sorted(Path(path).suffix for path, _ in files) == [".py", ".yaml"]
    for path, content in files:
        assert not (tmp_path / path).exists()
        (tmp_path / path).write_text(content, "utf-8")
    (command,) = COMMAND.findall(RECIPES[title])
    arguments = [*shlex.split(command), "trainer.max_steps=2", "run_dir=run", "logger=none", "trainer=cpu"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "weights.safetensors").is_file()
