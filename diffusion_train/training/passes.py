"""Timed passes of a run's own network, by which the settings that are `auto` are chosen before the first step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from diffusion_train.training.module import DiffusionModule
from diffusion_train.training.precision import autocast, shortened_frozen
from diffusion_train.utils.rng import Rng


class Passes:
    """Runs forward and backward passes of a micro-batch, x0 (B, ...) with its conditions.

    They change no weight, no buffer, no gradient and no random number of the run.
    """

    def __init__(self, module: DiffusionModule, x0: Tensor, cond: dict[str, Tensor]) -> None:
        self.module, self.x0, self.cond = module, x0, cond
        self.trained = [p for p in module.trainable_modules.parameters() if p.requires_grad]

    def first(self, num_rows: int) -> Passes:
        """Return passes of the first rows alone."""
        cond = {name: value[:num_rows] for name, value in self.cond.items()}
        return Passes(self.module, self.x0[:num_rows], cond)

    def seconds(self, precision: str) -> float:
        """Return the time of one pass, with the device's work for it."""
        device = self.x0.device
        with _unchanged(self.module), shortened_frozen(self.module.network, precision):
            _synchronize(device)
            start = perf_counter()
            self._run(precision)
            _synchronize(device)
            return perf_counter() - start

    def num_operations(self) -> int:
        """Return how many operations of torch a pass calls."""
        operations = _Operations()  # type: ignore[no-untyped-call]
        with _unchanged(self.module), operations:
            self._run("32-true")
        return operations.count

    def _run(self, precision: str) -> None:
        with autocast(precision, self.x0.device.type):
            loss = self.module.loss(self.x0, self.cond, Rng.at_step(0, 0, range(len(self.x0)))).loss.mean()
        torch.autograd.grad(loss, self.trained, allow_unused=True)


def faster(seconds_of: Callable[[str], float], known: str, other: str, budget: float, margin: float = 0.05) -> str:
    """Return `other` if it takes at least `margin` less time than `known`, else `known`.

    Both alternate for about `budget` seconds, and for at least one pair, after a pass of each that does not count.
    """
    spent = seconds_of(known) + seconds_of(other)
    ratios: list[float] = []
    while not ratios or spent < budget:
        times = [seconds_of(known), seconds_of(other)]
        spent += sum(times)
        ratios.append(times[1] / times[0])
    return other if median(ratios) < 1 - margin else known


@contextmanager
def _unchanged(module: DiffusionModule) -> Iterator[None]:
    """Train the module inside the block, and restore its buffers, its mode and torch's random numbers after it."""
    model = module.trainable_modules
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    was_training = [(part, part.training) for part in model.modules()]
    module.network.train()
    try:
        with torch.random.fork_rng(
            device for device in {p.device for p in model.parameters()} if device.type == "cuda"
        ):
            yield
    finally:
        for buffer, before in buffers:
            buffer.copy_(before)
        for part, training in was_training:
            part.training = training


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    count: int = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return function(*args, **(kwargs or {}))
