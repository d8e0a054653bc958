"""The exit codes of all commands."""

from __future__ import annotations

import errno
from enum import IntEnum

# Errors of a disk that accepts no more data.
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


class Exit(IntEnum):
    """The exit code of a command."""

    DONE = 0
    FOUND = 1  # `check` found something; its report is written
    WRONG = 2  # the config or the data are wrong at the start
    NUMERICAL = 3  # aborted: the loss or the gradients are not finite
    STORAGE = 4  # aborted: data or checkpoints cannot be read or written
    STOPPED = 75  # stopped in time and resumable
    INTERRUPTED = 130  # by Ctrl-C before the first step, or by a second Ctrl-C
