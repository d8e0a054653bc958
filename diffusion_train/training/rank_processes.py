"""The processes that the first one starts for the other devices of its node, in place of Lightning's own handling.

Lightning loses a signal that reaches such a process before its first line of code, kills the first process as soon as
another one ends with a code other than 0, and exchanges messages inside a signal handler.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from threading import Thread
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.utilities.distributed import _set_num_threads_if_needed
from pytorch_lightning.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

from diffusion_train.utils.exit_code import Exit
from diffusion_train.utils.process.interruption import in_main_thread, interruption_is_pending, signals_blocked
from diffusion_train.utils.process.launcher import STARTED_BY, starter

PASSED_ON = signal.SIGUSR2  # how the processes of a node tell each other that one of them got a signal
_LOOK_EVERY, _PATIENCE = 0.5, 5.0  # seconds


def take_over(trainer: pl.Trainer) -> None:
    """Let the trainer start its processes as described above, and leave the handlers of signals alone."""
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    launcher = trainer.strategy.launcher
    if type(launcher) is _SubprocessScriptLauncher:
        trainer.strategy._launcher = RankLauncher(
            launcher.cluster_environment, launcher.num_processes, launcher.num_nodes
        )


class RankLauncher(_SubprocessScriptLauncher):
    """Starts this program again for each further device of the node.

    If such a process is interrupted, this one is too. If it fails, all end with its exit code.
    """

    is_ending = False

    def launch(self, function: Callable[..., Any], *args: Any, trainer: pl.Trainer | None = None, **kwargs: Any) -> Any:
        self.cluster_environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not self.cluster_environment.creates_processes_externally:
            self._start()
            Thread(target=_observe, args=(self,), daemon=True).start()
        _set_num_threads_if_needed(num_processes=self.num_processes)
        return function(*args, **kwargs)

    def _start(self) -> None:
        os.environ[STARTED_BY] = str(os.getpid())
        before = signal.getsignal(PASSED_ON)
        _handle_passed_on(signal.SIG_IGN)  # until training begins, also in the processes started
        try:
            with signals_blocked():  # until they handle them
                self._call_children_scripts()
        except BaseException:
            _handle_passed_on(before)
            raise
        finally:
            del os.environ[STARTED_BY]

    def kill(self, number: Any) -> None:
        """Send a signal to the other processes; after SIGKILL, their ends are no failures."""
        self.is_ending |= number == signal.SIGKILL
        super().kill(number)


def _handle_passed_on(handler: Any) -> None:
    if in_main_thread():
        signal.signal(PASSED_ON, handler)


def pass_on(trainer: pl.Trainer) -> None:
    """Tell the other processes of this node that this one got a signal."""
    launcher = trainer.strategy.launcher
    if isinstance(launcher, RankLauncher):
        launcher.kill(PASSED_ON)
        if (parent := starter()) is not None:
            with suppress(ProcessLookupError):
                os.kill(parent, PASSED_ON)


def _observe(launcher: RankLauncher) -> None:
    """Wait until all processes ended; act if one ends by itself with a code other than 0."""
    processes = launcher.procs
    while any(process.poll() is None for process in processes):
        if any(process.returncode for process in processes):
            break
        time.sleep(_LOOK_EVERY)
    if launcher.is_ending:
        return
    number, code = next(((n, p.returncode) for n, p in enumerate(processes, 1) if p.returncode), (0, 0))
    if code in (Exit.STOPPED, Exit.INTERRUPTED):
        if not interruption_is_pending():
            os.kill(os.getpid(), signal.SIGTERM if code == Exit.STOPPED else signal.SIGINT)
    elif code:
        _end_all(launcher, number, code)


def _end_all(launcher: RankLauncher, number: int, code: int) -> None:
    time.sleep(_PATIENCE)  # this process may end with an error of its own
    if interruption_is_pending() or launcher.is_ending:
        return
    how = f"exit code {code}" if code > 0 else signal.Signals(-code).name
    print(f"process {number} of this node ended with {how}; ending all processes", file=sys.stderr, flush=True)
    launcher.kill(signal.SIGKILL)
    os._exit(max(code, 1))
