"""The environment of the tests and of every process that they start: the same whatever the user has set."""

from __future__ import annotations

import atexit
import locale
import os
import shutil
import site
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

# Where programs and libraries lie, who runs them, and which devices and kernels the machine offers.
_KEPT = {"PATH", "PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX", "VIRTUAL_ENV"}
_KEPT |= {"TMPDIR", "USER", "LOGNAME", "TERM"}
_KEPT_PREFIXES = ("PYTEST_", "COV", "LD_", "DYLD_", "CUDA_", "NVIDIA_", "ATEN_", "ONEDNN_", "MKL_", "OPENBLAS_")
_SET = {
    "OMP_NUM_THREADS": "1",  # several processes share the cores, and sums do not depend on their number
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TZ": "UTC",
    "LC_ALL": "C.UTF-8",
    "LANG": "C.UTF-8",
    "WANDB_MODE": "offline",
}


def enter() -> None:
    """Replaces the environment of this process; call it before torch is imported.

    Workers of pytest-xdist inherit the environment, and with it the home, of the process that starts them.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        return
    home = Path(tempfile.mkdtemp(prefix="diffusion_train_tests_"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    replacement = environment(os.environ, home)
    os.environ.clear()
    os.environ.update(replacement)
    time.tzset()
    with suppress(locale.Error):
        locale.setlocale(locale.LC_ALL, "")


def environment(of_user: Mapping[str, str], home: Path) -> dict[str, str]:
    kept = {name: value for name, value in of_user.items() if name in _KEPT or name.startswith(_KEPT_PREFIXES)}
    of_home = {
        "HOME": str(home),  # without XDG_*, HF_HOME and the like, every settings and cache folder lies in it
        "DIFFUSION_TRAIN_CACHE": str(home / ".cache" / "diffusion_train"),
        "PYTHONUSERBASE": site.getuserbase(),  # packages of `pip install --user` lie in the user's own home
    }
    return kept | _SET | of_home
