"""What the user has set decides nothing in a test, nor in a process that a test starts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from diffusion_train.utils.files import cache_folder

ROOT = Path(__file__).parents[1]
FOREIGN = {
    "HOME": "/canary",
    "XDG_CACHE_HOME": "/canary",
    "DIFFUSION_TRAIN_CACHE": "/canary",
    "DIFFUSION_TRAIN_DEBUG": "1",
    "HF_HOME": "/canary",
    "HF_HUB_OFFLINE": "1",
    "WANDB_MODE": "online",
    "WANDB_API_KEY": "canary",
    "http_proxy": "http://127.0.0.1:9",
    "AWS_PROFILE": "canary",
    "WORLD_SIZE": "2",
    "RANK": "1",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "canary",
    "SLURM_PROCID": "1",
    "TORCHELASTIC_RUN_ID": "canary",
    "OMP_NUM_THREADS": "3",
    "TZ": "Asia/Kathmandu",
    "LC_ALL": "C",
    "CUBLAS_WORKSPACE_CONFIG": "canary",
}
WRITE = """
import json, locale, os, time

def test_it(request):
    seen = [dict(os.environ), locale.getpreferredencoding(), time.tzname[0]]
    request.config.rootpath.joinpath("seen.json").write_text(json.dumps(seen), "utf-8")
"""


@pytest.mark.slow
def test_foreign_variables_have_no_effect(tmp_path: Path) -> None:
    """A session of its own, started where they are set; its test runs in a worker."""
    (tmp_path / "conftest.py").write_text("import own_environment\nown_environment.enter()\n")
    (tmp_path / "test_it.py").write_text(WRITE)
    (tmp_path / "pytest.ini").write_text(f"[pytest]\npythonpath = {ROOT / 'tests'}\n")
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")} | FOREIGN
    command = [sys.executable, "-m", "pytest", "-q", "-n", "1", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, env=outside, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    inside, encoding, time_zone = json.loads((tmp_path / "seen.json").read_text("utf-8"))
    assert [name for name, value in FOREIGN.items() if inside.get(name) == value] == []
    assert (encoding.lower(), time_zone, inside["OMP_NUM_THREADS"]) == ("utf-8", "UTC", "1")
    assert not Path(inside["HOME"]).exists()  # it is gone with the session


def test_every_process_of_the_session_shares_one_private_home() -> None:
    code = "import os, time; print(os.path.expanduser('~'), time.tzname[0], os.environ['OMP_NUM_THREADS'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(Path.home()), time.tzname[0], str(torch.get_num_threads())]
    assert (time.tzname[0], torch.get_num_threads()) == ("UTC", 1)
    assert Path.home().name.startswith("diffusion_train_tests_")
    assert cache_folder().is_relative_to(Path.home())
