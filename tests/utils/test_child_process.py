"""What a process that works for another one makes of signals."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

WORKER = """
import sys, time
from diffusion_train.utils.process import child_process
child_process.GRACE = float(sys.argv[1])
child_process.serve_parent()
print("ready", flush=True)
time.sleep(30)
"""

PARENT = """
import multiprocessing, sys, time
from diffusion_train.utils.process.child_process import serve_parent
def work():
    serve_parent()
    print("ready", flush=True)
    time.sleep(60)
if __name__ == "__main__":
    multiprocessing.get_context(sys.argv[1]).Process(target=work).start()
    time.sleep(60)
"""


def worker(grace: float) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", WORKER, str(grace)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_worker_goes_on_with_what_its_parent_may_need(number: int) -> None:
    process = worker(grace=60)
    os.kill(process.pid, number)
    time.sleep(0.5)
    assert process.poll() is None
    process.kill()
    process.wait()


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_it_ends_with_a_killed_parent_and_not_before(method: str, tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT, "utf-8")
    parent = subprocess.Popen([sys.executable, str(script), method], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "ready\n"
    assert not select.select([parent.stdout], [], [], 1.0)[0]
    parent.kill()
    assert parent.stdout.read() == ""  # which the child holds open
    parent.wait()


def test_a_parent_can_end_it_all_the_same() -> None:
    process = worker(grace=0.2)
    process.terminate()
    process.terminate()
    assert process.wait(timeout=20) == 1
