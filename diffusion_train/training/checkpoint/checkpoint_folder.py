"""Which checkpoints of a folder stay, and the link to the newest one."""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from diffusion_train.run_folder import LAST, by_step
from diffusion_train.training.checkpoint.checkpoint_file import newest_whole
from diffusion_train.utils.exit_code import DISK_ERRORS
from diffusion_train.utils.files import TEMPORARY

_FULL = (errno.ENOSPC, errno.EDQUOT)


def remove_surplus(folder: Path, num_kept: int) -> None:
    """Delete all checkpoints but the newest `num_kept`."""
    _remove(by_step(folder)[num_kept:])


def free_space(folder: Path, num_kept: int, error: OSError) -> bool:
    """If `error` says that the disk is full, delete all checkpoints but the newest `num_kept` and the newest whole one.

    Return whether there were any to delete.
    """
    if error.errno not in _FULL:
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about damaged checkpoints, which the next start repeats
        stays = None
        with suppress(ValueError):  # all are damaged
            stays = newest_whole(folder)
    surplus = [path for path in by_step(folder)[num_kept:] if path != stays]
    _remove(surplus)
    if surplus:
        names = ", ".join(path.name for path in surplus)
        warnings.warn(f"{folder}: the disk is full; deleted {names} and saving again", stacklevel=1)
    return bool(surplus)


def link_last(folder: Path, name: str) -> bool:
    """Point `last.ckpt` at the checkpoint `name`; return False, and leave no link, where links cannot be made."""
    temporary, last = folder / f"{TEMPORARY}{LAST}", folder / LAST
    temporary.unlink(missing_ok=True)
    try:
        temporary.symlink_to(name)
        os.replace(temporary, last)
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            raise
        last.unlink(missing_ok=True)  # it may point at an older checkpoint
        return False
    return True


def _remove(paths: Sequence[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
