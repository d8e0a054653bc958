"""Every command and the Python of README.md run, commands shortened; the notebook runs; links lead somewhere;
the site builds.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_pipelines import sd15
from warm_process import PROGRAM, python

from diffusion_train.prepare.source.openmoji import OpenMoji

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
COMMANDS = [
    line.split("#")[0].split("&&")[-1].strip()
    for language, block in BLOCKS
    if not language
    for line in block.splitlines()
    if re.search(r"(^|&& )(python (train|sample)\.py|diffusion-train)", line)
]
SMALL = ["data.batch_size=2", "callbacks=images", "callbacks.samples.num_samples=1"]
SMALL += ["callbacks.validation.num_samples=2", "sampler.num_steps=2"]
MADE = {"<model>": "model", "<LoRA run>": "lora_run"}
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
LINKS = [
    pytest.param(page, link, id=f"{page.relative_to(ROOT)}-{link}")
    for page in PAGES
    for link in re.findall(r"\]\((?!http)([^)]+)\)", page.read_text("utf-8"))
]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short default run, as the README's first command makes one."""
    folder = tmp_path_factory.mktemp("runs") / "openmoji"
    command = [sys.executable, "train.py", f"run_dir={folder}", "trainer.max_steps=2", "callbacks=images"]
    subprocess.run(command, cwd=ROOT, check=True)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Stable Diffusion."""
    return sd15(tmp_path_factory.mktemp("models") / "sd15")


@pytest.fixture(scope="module")
def lora_run(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "lora"
    shards = next(iter(OpenMoji(32)))
    arguments = [
        "train.py",
        "experiment=sd15_lora",
        f"pretrained={model}",
        f"data.shards={shards}",
        f"run_dir={folder}",
    ]
    assert call([*arguments, "trainer.max_steps=1", *SMALL]).returncode == 0
    return folder


def draw_images(images: Path) -> None:
    """A folder of four images with captions."""
    images.mkdir()
    for number in range(4):
        Image.new("RGB", (40, 40), (60 * number, 0, 0)).save(images / f"{number}.png")
        (images / f"{number}.txt").write_text(f"red {number}", "utf-8")


def tool(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return call([PROGRAM, *arguments])


def call(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return python(*arguments, env={**os.environ, "WANDB_MODE": "offline"})


def test_the_readme_shows_both_first_commands() -> None:
    assert 'pip install -e ".[demo]" && python train.py' in README
    assert 'pip install -e ".[dev]" && pytest' in README
    assert "python train.py" in COMMANDS


@pytest.mark.parametrize(("page", "link"), LINKS)
def test_links_lead_somewhere(page: Path, link: str) -> None:
    """To a file of the repository, and to one of its headings."""
    path, _, anchor = link.partition("#")
    file = page.parent / path if path else page
    assert file.is_file()
    assert not anchor or anchor in {
        slug(title) for title in re.findall(r"^#+ (.*)$", file.read_text("utf-8"), re.MULTILINE)
    }


def slug(title: str) -> str:
    return re.sub(r"[ ]+", "-", re.sub(r"[^\w\- ]", "", title.lower()))


@pytest.mark.slow
def test_the_python_of_the_readme_trains_and_samples() -> None:
    names: dict[str, Any] = {}
    exec(next(block for language, block in BLOCKS if language == "python"), names)  # noqa: S102
    distances = torch.cdist(names["samples"], names["points"]).min(1).values
    assert distances.mean() < 0.055  # 0.030 to 0.040 over eight seeds; noise of the same spread has 0.2


@pytest.mark.slow
def test_the_notebook_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: None)
    cells = json.loads((ROOT / "docs" / "tutorial" / "training_loop.ipynb").read_text("utf-8"))["cells"]
    names: dict[str, Any] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)  # noqa: S102
    assert sum(names["losses"][-100:]) < 0.85 * sum(names["losses"][:100])
    assert torch.cdist(names["samples"], names["points"]).min(1).values.mean() < 0.055


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(build, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 30
    loaded = re.compile(
        r"<(?:script|img|iframe)[^>]*src=\"?(?:https?:)?//|<link[^>]*href=\"?(?:https?:)?//[^>]*stylesheet|url\((?:https?:)?//"
    )
    assert not [page for page in pages if loaded.search(page.read_text("utf-8"))]


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_command_runs(command: str, run_folder: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    shards = next(iter(OpenMoji(32)))
    if "<folder>" in command:
        draw_images(tmp_path / "images")
    for written, meant in {
        "<run folder>": run_folder,
        "my_images-{000..099}.tar": shards,
        "s3://bucket/{000..999}.tar": shards,
        "<folder>": tmp_path / "images",
        "<shards>": tmp_path / "shards",
        "<report>": tmp_path / "report",
        "<file>": tmp_path / "brand.safetensors",
        **{written: request.getfixturevalue(name) for written, name in MADE.items() if written in command},
    }.items():
        command = command.replace(written, str(meant))
    program, *arguments = shlex.split(command)
    if program == "diffusion-train":
        made = tool(arguments)
        found = "check" in arguments  # OpenMoji's licence is share-alike, and some of its drawings look alike
        assert made.returncode == int(found), made.stdout + made.stderr
        return
    if "sample.py" in arguments:
        done = call([*arguments, f"out={tmp_path}", "sampler.num_steps=2"])
        assert len(list(tmp_path.glob("*.png"))) == 13
    elif "unett" in command:
        done = call(arguments)
        assert done.returncode == 2
        assert [word in done.stderr for word in ("batch_size", "unet", "max_steps")] == [True] * 3
        return
    elif "num_nodes" in command or "--help" in command:
        done = call([*arguments, *([] if "--help" in command else ["--cfg", "job"])])
    else:
        small = [*SMALL, "trainer.max_steps=2", f"run_dir={tmp_path / 'run'}"]
        small += ["report=false"] if "experiment=brand" in arguments else []
        small += ["network.width=64", "network.depth=2"] if "network=dit" in arguments else []
        done = call([*arguments, *small])
    assert done.returncode == 0, done.stderr
