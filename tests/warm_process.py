"""Commands in processes of their own that need not import the libraries: each is forked from one that has.

Importing torch, Lightning and diffusers takes seconds, and the slow tests start hundreds of commands. All else is as
for `python <arguments>`: arguments, environment, working folder, exit code, output, and what the process starts itself.
Tests of what is imported, of signals to a whole process group, and of the README's first command start python itself.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROGRAM = Path(sys.executable).with_name("diffusion-train")
_CONTEXT = multiprocessing.get_context("forkserver")
_IMPORTED = [
    *(
        f"diffusion_train.command.{name}"
        for name in ("train", "bench", "sample", "encode", "export", "report", "approve", "check")
    ),
    *("diffusers", "transformers", "peft", "wandb", "matplotlib.figure"),
]


def python(
    *arguments: object,
    cwd: Path = ROOT,
    env: Mapping[str, str] | None = None,
    timeout: float = 600,
) -> subprocess.CompletedProcess[str]:
    """As `subprocess.run([sys.executable, *arguments], ...)` with captured text; the first argument is a script."""
    _CONTEXT.set_forkserver_preload(_IMPORTED)
    words = [str(argument) for argument in arguments]
    with tempfile.TemporaryDirectory() as folder:
        outputs = [f"{folder}/stdout", f"{folder}/stderr"]
        process = _CONTEXT.Process(target=_run, args=(words, str(cwd), dict(env or os.environ), outputs))
        process.start()
        process.join(timeout)
        if process.is_alive():
            process.kill()
            raise subprocess.TimeoutExpired(words, timeout)
        stdout, stderr = (Path(path).read_text("utf-8", "replace") for path in outputs)
        return subprocess.CompletedProcess(words, process.exitcode or 0, stdout, stderr)


def _run(arguments: Sequence[str], cwd: str, environment: Mapping[str, str], outputs: Sequence[str]) -> None:
    for number, path in enumerate(outputs, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    multiprocessing.process._parent_process = None  # type: ignore[attr-defined]  # nobody's worker
    sys.argv = list(arguments)
    further = environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [os.path.dirname(os.path.abspath(arguments[0])), *filter(None, further)]
    try:
        runpy.run_path(arguments[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # which multiprocessing leaves out
