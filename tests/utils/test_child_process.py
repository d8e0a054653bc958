"""What a process that works for another one makes of signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

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
import multiprocessing, time
from diffusion_train.utils.process.child_process import serve_parent
def work():
    serve_parent()
    time.sleep(60)
child = multiprocessing.get_context("fork").Process(target=work)
child.start()
print(child.pid, flush=True)
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


def test_it_ends_with_a_killed_parent() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdout.readline()
    parent.kill()
    assert parent.stdout.read() == ""  # which the child holds open
    parent.wait()


def test_a_parent_can_end_it_all_the_same() -> None:
    process = worker(grace=0.2)
    process.terminate()
    process.terminate()
    assert process.wait(timeout=20) == 1
