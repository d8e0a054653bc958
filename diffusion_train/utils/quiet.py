"""Prints warnings as one line, without those of libraries that users of this package cannot act on."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from diffusion_train.utils.redact import redact_text

_LOGGERS = (
    "pytorch_lightning",
    "pytorch_lightning.utilities.rank_zero",
    "lightning_fabric.utilities.distributed",
    "torch.distributed",
    "transformers.utils.import_utils",
)


def quiet_libraries() -> None:
    """Keep only the errors of these loggers, whether or not their libraries are imported already.

    Lightning's advice concerns its own training loops, which are not used here. Warnings of this package need
    `stacklevel=1`: Lightning calls its hooks, so with a greater one they would count as Lightning's.
    """
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_is_error)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    warnings.filterwarnings("ignore", message=".*isinstance.*LeafSpec.*")


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Inside the block, a warning is printed as `warning: <message>`, without the line of code that it comes from."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"warning: {redact_text(str(message))}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR
