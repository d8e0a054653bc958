"""Silences log messages and warnings of libraries that users of this package cannot act on."""

from __future__ import annotations

import logging
import warnings

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


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR
