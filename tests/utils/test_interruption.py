"""Signals outside of training steps, in processes of their own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from diffusion_train.utils.process.interruption import Stopping, StopRequest

HEAD = """
import hashlib, os, signal, sys, threading, time
from diffusion_train.utils.process import interruption
from diffusion_train.utils.process.interruption import exit_at_signals, interruptible, signals_blocked
interruption.TIME_TO_LEAVE = 0.3
def wait_in_a_library():
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
"""
ONCE = "os.kill(os.getpid(), signal.SIGTERM)"
IGNORED = """
with interruptible():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except KeyboardInterrupt:
        time.sleep(60)
"""
BLOCKED = """
with signals_blocked():
    code = "from diffusion_train.utils.process.interruption import exit_at_signals; exit_at_signals()"
    child = os.posix_spawn(sys.executable, [sys.executable, "-c", \
"import os, signal; os.kill(os.getpid(), 15); " + code], os.environ)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
FORKED = """
with interruptible():
    child = os.fork()
    if not child:
        signal.signal(signal.SIGTERM, lambda *rest: os._exit(0))
        signal.pause()
    time.sleep(0.2)
    os.kill(child, signal.SIGTERM)
    os.waitpid(child, 0)
    time.sleep(1)
sys.exit(5)
"""


@pytest.mark.parametrize(
    ("body", "environment", "code"),
    [
        (f"exit_at_signals(); {ONCE}", {}, 75),
        (f"exit_at_signals(); {ONCE}", {"RANK": "1", "WORLD_SIZE": "2"}, 0),
        (f"exit_at_signals(); {ONCE}".replace("TERM", "INT"), {}, 130),
        (f"exit_at_signals(); os.close(2); {ONCE}", {}, 75),
        (BLOCKED, {}, 75),
        (IGNORED, {}, 75),
        ("with interruptible(): wait_in_a_library()", {}, 75),
        (FORKED, {}, 5),
    ],
    ids=[
        "first line",
        "of another rank",
        "Ctrl-C",
        "without stderr",
        "before it",
        "ignored",
        "in a library",
        "of a forked process",
    ],
)
def test_a_process_ends_with_its_code(monkeypatch, body: str, environment: dict[str, str], code: int) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    done = subprocess.run([sys.executable, "-c", HEAD + body], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr


def test_a_request_raises_inside_its_blocks_alone() -> None:
    request = StopRequest()
    with request.stoppable():
        pass
    request.make()
    with pytest.raises(Stopping), request.stoppable():
        pytest.fail("an earlier request raises at once")
    request.is_made = False
    with pytest.raises(Stopping), request.stoppable():
        request.make()
    request.make()
