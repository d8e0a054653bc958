"""One process at a time holds a lock, and a killed one holds none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from diffusion_train.utils.lock import locked, try_lock, unlock, wait_for_lock

HOLDER = """
import sys, time
from pathlib import Path
from diffusion_train.utils.lock import wait_for_lock
with wait_for_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
    Path(sys.argv[1] + ".done").touch()
"""


def hold(file: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLDER, str(file), str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_holder_is_refused_and_told_of_the_first(tmp_path: Path) -> None:
    with locked(tmp_path / "new" / "lock", "out=x"):
        message = f"out=x is in use by process {os.getpid()} on .*; give another folder"
        with pytest.raises(ValueError, match=message), locked(tmp_path / "new" / "lock", "out=x"):
            pass
    with locked(tmp_path / "new" / "lock", "out=x"):
        pass


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="out=x: cannot be written to"), locked(tmp_path / "file" / "lock", "out=x"):
        pass


def test_a_waiting_process_goes_on_after_the_first(tmp_path: Path) -> None:
    process = hold(tmp_path / "lock", 0.3)
    with wait_for_lock(tmp_path / "lock"):
        assert (tmp_path / "lock.done").exists()
    process.wait()


def test_where_nothing_can_be_written_nobody_waits(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with wait_for_lock(tmp_path / "file" / "lock"):
        pass


def test_a_killed_process_holds_no_lock(tmp_path: Path) -> None:
    process = hold(tmp_path / "lock", 60)
    with (tmp_path / "lock").open("a") as stream:
        assert not try_lock(stream.fileno())
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert try_lock(stream.fileno())
        with (tmp_path / "lock").open("a") as other:
            assert not try_lock(other.fileno())
            unlock(stream.fileno())
            assert try_lock(other.fileno())


FORKING_HOLDER = """
import os, signal, sys, time
from pathlib import Path
from diffusion_train.utils.lock import locked
with locked(Path(sys.argv[1]), "run_dir=x"):
    if not (child := os.fork()):
        signal.pause()
    print(child, flush=True)
    signal.pause()
"""


def test_a_process_that_a_killed_one_forked_holds_no_lock(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", FORKING_HOLDER, str(tmp_path / "lock")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    child = int(process.stdout.readline())
    with pytest.raises(ValueError, match="in use by process"), locked(tmp_path / "lock", "run_dir=x"):
        pass
    process.kill()
    process.wait()
    with locked(tmp_path / "lock", "run_dir=x"):
        pass
    os.kill(child, signal.SIGKILL)
