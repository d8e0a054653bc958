"""Loggers whose errors end no run."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from pytorch_lightning.loggers import Logger

from diffusion_train.logger.metrics_file import MetricsFile

# What Lightning and our callbacks call.
_METHODS = ("log_metrics", "log_hyperparams", "log_graph", "log_image", "save", "finalize", "after_save_checkpoint")


def surviving(logger: Logger) -> Logger:
    """Return `logger`, still of its class, but without errors: after the first one it warns, and then does nothing.

    MetricsFile stays as it is, because it is the record of the run.
    """
    if isinstance(logger, MetricsFile):
        return logger
    kind, guard = type(logger), _Guard(type(logger).__name__)
    guarded: dict[str, Any] = {name: guard.of(getattr(kind, name)) for name in _METHODS if hasattr(kind, name)}
    if hasattr(kind, "experiment"):  # a property, in which most loggers start
        guarded["experiment"] = property(guard.of(lambda self: super(type(self), self).experiment))
    logger.__class__ = type(kind.__name__, (kind,), guarded)
    return logger


class _Guard:
    """Lets the calls of a logger return None once one of them has failed."""

    def __init__(self, name: str) -> None:
        self.name, self.is_lost = name, False

    def of(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self.is_lost:
                return None
            try:
                return method(*args, **kwargs)
            except Exception as error:  # noqa: BLE001  a logger may fail in any way
                self.is_lost = True
                problem = f"{type(error).__name__}: {error}".rstrip(": ")
                warnings.warn(
                    f"{self.name}: {problem}; the run continues without it, and metrics.csv has all metrics",
                    stacklevel=1,
                )
                return None

        return call
