"""A training run in a process of its own, which takes steps on request."""

from __future__ import annotations

import copy
import multiprocessing
import os
import platform
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf

from diffusion_train import config
from diffusion_train.bench.arithmetic import FlopCount, matmul_dtype, matmul_peak
from diffusion_train.bench.clock import PhaseClock, timer_of
from diffusion_train.bench.occasional import act
from diffusion_train.bench.phases import watch
from diffusion_train.training.optimizer import is_fused
from diffusion_train.training_run import build_run
from diffusion_train.utils.process.child_process import serve_parent
from diffusion_train.utils.process.memory import peak_bytes
from diffusion_train.utils.quiet import quiet_libraries

_PATIENCE = 20.0  # seconds in which a trial may end its data workers
_WARM_UP = 3  # steps: the first allocates, compiles and counts operations


class TrialFailed(RuntimeError):
    """A trial cannot go on."""


@dataclass(frozen=True)
class Facts:
    """What a trial says about itself after its first steps."""

    device: str
    num_threads: int
    precision: str
    rows: int  # of a batch
    is_fused: bool  # the optimizer
    has_convolutions: bool
    flop: int  # of one step
    first_steps: float  # seconds of the first steps, which include compilation


@dataclass(frozen=True)
class Profile:
    """Seconds of each phase of one step, and what the machine and its memory reached."""

    phases: Mapping[str, float]
    peak_flop: float  # FLOP/s of matrix products
    peak_bytes: int

    @property
    def seconds(self) -> float:
        return sum(self.phases.values())


class Trial:
    """The process of a run with the config `cfg`, which has no end. Use it in a `with` statement.

    `environment` are variables that are set for it alone. The run writes to a temporary folder.
    """

    def __init__(self, cfg: DictConfig, environment: Mapping[str, str] | None = None) -> None:
        self.cfg, self.environment = copy.deepcopy(cfg), dict(environment or {})

    def __enter__(self) -> Self:
        """Start the run and take its first steps. Raises TrialFailed."""
        self._folder = tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True)
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        folder = Path(self._folder.name)
        self.cfg.run_dir = str(folder / "run")
        container: Any = OmegaConf.to_container(self.cfg, resolve=True)
        self._process = context.Process(target=_serve, args=(theirs, container, config.allowed(), folder))
        with _environment(self.environment):
            self._process.start()
        theirs.close()
        try:
            self.facts: Facts = self._ask()
        except BaseException as error:
            self.__exit__(type(error))
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None = None, *error: object) -> None:
        self._connection.close()
        self._process.join(_PATIENCE if kind is None else 0)
        self._process.kill()
        self._process.join()
        self._folder.cleanup()

    @property
    def is_running(self) -> bool:
        return self._process.is_alive()

    def seconds(self, num_steps: int, untimed: int = 1) -> float:
        """Take `untimed` and then `num_steps` steps; return the seconds of one of the latter. Raises TrialFailed."""
        return float(self._ask("seconds", untimed, num_steps))

    def profile(self, num_steps: int, untimed: int = 1) -> Profile:
        """Take steps as `seconds` does, and return where their time goes. Raises TrialFailed."""
        profile: Profile = self._ask("profile", untimed, num_steps)
        return profile

    def occasional(self) -> dict[str, float]:
        """Take a step, and then let the callbacks that act at few steps act; return their seconds by their class."""
        seconds: dict[str, float] = self._ask("occasional", 0, 1)
        return seconds

    def _ask(self, *request: object) -> Any:
        """Send a request, if any, and return the answer."""
        try:
            if request:
                self._connection.send(request)
            answer = self._connection.recv()
        except (EOFError, OSError) as gone:
            self._process.join()
            lines = (Path(self._folder.name) / "output").read_text("utf-8", errors="replace").strip().splitlines()
            reason = lines[-1] if lines else f"its process ended with exit code {self._process.exitcode}"
            raise TrialFailed(reason) from gone
        if isinstance(answer, TrialFailed):
            self._process.join()
            raise answer
        return answer


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _serve(connection: Connection, container: dict[str, Any], allowed: tuple[str, ...], folder: Path) -> None:
    """Train, step by step, until the other end of the pipe is closed."""
    serve_parent()
    output = os.open(folder / "output", os.O_WRONLY | os.O_CREAT, 0o600)
    for stream in (1, 2):
        os.dup2(output, stream)
    try:
        _train(connection, container, allowed)
    except Exception as error:  # noqa: BLE001 (the other end raises it)
        with suppress(OSError):
            connection.send(TrialFailed(str(error).strip() or repr(error)))


def _train(connection: Connection, container: dict[str, Any], allowed: tuple[str, ...]) -> None:
    quiet_libraries()
    config.allow(allowed)
    torch.set_float32_matmul_precision("high")
    run = build_run(config.from_container(container))
    clock = PhaseClock(timer_of(run.trainer.strategy.root_device))
    watch(run.trainer, run.module, clock)
    run.trainer.callbacks.append(_Turns(connection, clock))  # type: ignore[attr-defined]
    run.trainer.fit(run.module, run.datamodule)


class _Turns(pl.Callback):
    """Takes steps as the other end of `connection` asks, and waits between them. It is the last callback."""

    def __init__(self, connection: Connection, clock: PhaseClock) -> None:
        self.connection, self.clock, self.timer = connection, clock, clock.timer
        self.flop, self.counting = FlopCount(), ExitStack()
        self.what, self.untimed, self.timed, self.taken = "facts", 0, _WARM_UP, 0

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        self.began = time.monotonic()
        self._begin()

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 0:
            self.counting.enter_context(self.flop.counting(module.network))

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.counting.close()
        self.taken += 1
        if self.taken == self.untimed:
            self._begin()
        if self.taken < self.untimed + self.timed:
            return
        self._answer(trainer, module, len(batch["index"]))
        try:
            self.what, self.untimed, self.timed = self.connection.recv()
        except EOFError:
            trainer.should_stop = True
        self.taken = 0

    def _begin(self) -> None:
        if self.what == "profile":
            self.clock.start()
        self.start = self.timer.mark()

    def _answer(self, trainer: pl.Trainer, module: Any, rows: int) -> None:
        seconds = self.timer.seconds(self.start, self.timer.mark()) / self.timed
        if self.what == "facts":
            self.connection.send(self._facts(trainer, module, rows))
        elif self.what == "seconds":
            self.connection.send(seconds)
        elif self.what == "occasional":
            self.connection.send(act(trainer, module, self.timer))
        else:
            phases = {phase: whole / self.timed for phase, whole in self.clock.stop().items()}
            device, dtype = trainer.strategy.root_device, matmul_dtype(str(trainer.precision))
            memory = peak_bytes()  # before that of the product of matrices
            self.connection.send(Profile(phases, matmul_peak(device, dtype), memory))

    def _facts(self, trainer: pl.Trainer, module: Any, rows: int) -> Facts:
        device = trainer.strategy.root_device
        return Facts(
            device=torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name(),
            num_threads=torch.get_num_threads(),
            precision=str(trainer.precision),
            rows=rows,
            is_fused=is_fused(trainer.optimizers[0]),
            has_convolutions=any(parameter.ndim > 3 for parameter in module.network.parameters()),
            flop=self.flop.total,
            first_steps=time.monotonic() - self.began,
        )


def _cpu_name() -> str:
    with suppress(OSError), open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return f"{platform.machine()} CPU"
