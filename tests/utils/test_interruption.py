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
from diffusion_train.utils import interruption
interruption.GRACE = float(sys.argv[1])
interruption.leave_signals_to_the_parent()
print("ready", flush=True)
time.sleep(30)
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


def test_a_parent_can_end_it_all_the_same() -> None:
    process = worker(grace=0.2)
    process.terminate()
    process.terminate()
    assert process.wait(timeout=20) == 1
