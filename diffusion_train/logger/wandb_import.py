"""The import of W&B."""

from __future__ import annotations

import os


def import_wandb() -> None:
    """Import what a run needs of W&B; before torch and Lightning, this takes half the time.

    For each of hundreds of its classes, pydantic looks through all modules that are imported already.
    """
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # otherwise a dead server delays the end by 20 seconds
    import wandb.apis.public  # noqa: F401  wandb.init imports it
