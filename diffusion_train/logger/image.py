"""Images in the loggers that show them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pytorch_lightning.loggers import Logger, WandbLogger

from diffusion_train.utils.text import printable


def log_image(loggers: Iterable[Logger], name: str, path: Path, caption: str, step: int) -> None:
    """Log the image file `path` with its caption in every logger that supports images."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(name, [str(path)], step, caption=[printable(caption, 1000)])
