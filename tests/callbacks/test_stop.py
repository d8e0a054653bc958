"""Signals during training, in this process."""

from __future__ import annotations

import os
import signal
import sys
import time
from types import SimpleNamespace
from typing import Any

import pytest

from diffusion_train.callbacks.stop import GracefulStop, stoppable
from diffusion_train.utils.process.interruption import Interrupted, Stopping, handlers_restored, stop_request


@pytest.fixture
def trainer() -> Any:
    stop = GracefulStop()
    trainer = SimpleNamespace(
        world_size=1, should_stop=False, strategy=SimpleNamespace(launcher=None), callbacks=[stop], stop=stop
    )
    with handlers_restored():
        stop.on_train_start(trainer, None)
        stop.on_train_batch_end(trainer, None, None, None, 0)
        yield trainer
    stop.teardown(trainer, None, "fit")
    assert not stop_request.is_made


def long_work() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
    pytest.fail("the signal came too late")


def test_work_returns_its_result(trainer: Any) -> None:
    assert stoppable(trainer, lambda: 3) == 3
    assert not trainer.should_stop


def test_a_signal_ends_long_work_and_all_that_comes_after(trainer: Any) -> None:
    with pytest.raises(Stopping):
        stoppable(trainer, long_work)
    assert trainer.should_stop
    with pytest.raises(Stopping):
        stoppable(trainer, lambda: pytest.fail("the run is stopping"))


def test_a_signal_elsewhere_waits_for_the_end_of_the_step(trainer: Any) -> None:
    os.kill(os.getpid(), signal.SIGUSR1)
    assert not trainer.should_stop
    trainer.stop.on_train_batch_end(trainer, None, None, None, 1)
    assert trainer.should_stop


class Busy:
    """Standard error in the middle of a write, as Python's own streams are."""

    def write(self, text: str) -> int:
        raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stderr>'>")


@pytest.mark.parametrize("terminal", ["there", "gone"])
def test_a_signal_inside_a_print_is_not_lost(trainer: Any, monkeypatch, capfd, terminal: str) -> None:
    def write(number: int, text: bytes) -> int:
        raise OSError("no terminal")

    monkeypatch.setattr(sys, "stderr", Busy())
    if terminal == "gone":
        monkeypatch.setattr(os, "write", write)
    os.kill(os.getpid(), signal.SIGTERM)
    assert trainer.stop.asked
    assert stop_request.is_made
    assert (terminal == "gone") or "SIGTERM: saving after this step" in capfd.readouterr().err


def test_a_signal_in_long_work_says_what_happens(trainer: Any, capfd) -> None:
    with pytest.raises(Stopping):
        stoppable(trainer, long_work)
    assert "SIGTERM: saving after this step" in capfd.readouterr().err


def test_a_request_of_another_rank_is_not_the_first_of_two_signals(trainer: Any) -> None:
    trainer.stop._ask()
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(Interrupted):
        os.kill(os.getpid(), signal.SIGTERM)
