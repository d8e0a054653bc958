"""What the first process does when the others end, and from where it can start them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from typing import Any

import pytest
from lightning_fabric.plugins.environments import LightningEnvironment

from diffusion_train.training import rank_processes
from diffusion_train.training.rank_processes import PASSED_ON, STARTED_BY, RankLauncher, _observe


@pytest.fixture
def launcher(monkeypatch) -> RankLauncher:
    def end(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(rank_processes, "_PATIENCE", 0.5)
    monkeypatch.setattr(os, "_exit", end)
    launcher = RankLauncher(LightningEnvironment(), 2, 1)
    monkeypatch.setattr(launcher, "_call_children_scripts", lambda: None)
    launcher.procs = [subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])]
    yield launcher
    for process in launcher.procs:
        process.kill()
        process.wait()


def test_processes_that_this_one_ends_are_no_failures(launcher: RankLauncher, capsys) -> None:
    launcher.kill(signal.SIGKILL)
    _observe(launcher)
    assert capsys.readouterr().err == ""


def test_a_process_that_is_killed_ends_all(launcher: RankLauncher, capsys) -> None:
    launcher.procs[0].kill()
    with pytest.raises(SystemExit, match="1"):
        _observe(launcher)
    assert "process 1 of this node ended with SIGKILL; ending all" in capsys.readouterr().err


def test_a_failure_that_this_process_reports_itself_meanwhile_is_not_reported_again(launcher, capsys) -> None:
    launcher.procs[0].kill()
    threading.Timer(0.1, launcher.kill, [signal.SIGKILL]).start()
    _observe(launcher)
    assert capsys.readouterr().err == ""


def test_processes_can_be_started_from_any_thread(launcher: RankLauncher) -> None:
    errors: list[ValueError] = []

    def start() -> None:
        try:
            launcher._start()
        except ValueError as error:
            errors.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert not errors


def test_a_start_that_fails_leaves_signals_and_environment_as_they_were(launcher, monkeypatch) -> None:
    def fail() -> Any:
        raise OSError("no more processes")

    monkeypatch.setattr(launcher, "_call_children_scripts", fail)
    before = signal.getsignal(PASSED_ON)
    with pytest.raises(OSError, match="no more"):
        launcher._start()
    assert signal.getsignal(PASSED_ON) == before
    assert STARTED_BY not in os.environ
