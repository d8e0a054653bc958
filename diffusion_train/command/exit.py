"""How every command ends."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Callable
from enum import IntEnum
from typing import TypeVar

from diffusion_train.utils.interruption import Interrupted

T = TypeVar("T")
# A disk that takes no more.
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
_EXTRAS = {"diffusers": "pretrained", "transformers": "pretrained", "peft": "pretrained"}  # package: what installs it


class Exit(IntEnum):
    DONE = 0
    FOUND = 1  # `check` found something; its report is written
    WRONG = 2  # configuration or data are wrong at the start
    NUMERICAL = 3  # aborted: loss or gradients are no numbers
    STORAGE = 4  # aborted: data or checkpoints cannot be read or written
    INTERRUPTED = 130  # by Ctrl-C before the first step, or once more
    STOPPED = 75  # stopped in time and resumable


def guarded(body: Callable[[], T]) -> T | Exit:
    """What `body` returns, or Exit.WRONG after telling, without its traceback, what is the user's to mend.

    That is a ValueError, a package of an extra that is not installed, or a disk that takes no more (Exit.STORAGE).
    Ctrl-C and a cluster's signals are told too. Everything else passes through. DIFFUSION_TRAIN_DEBUG=1 shows the
    traceback.
    """
    try:
        return body()
    except ValueError as error:
        tell(error)
        return Exit.WRONG
    except OSError as error:
        if error.errno not in DISK:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print("\n".join([f"{where}{error.strerror}", *getattr(error, "__notes__", [])]), file=sys.stderr)
        return Exit.STORAGE
    except ModuleNotFoundError as error:
        if error.name not in _EXTRAS:
            raise
        print(
            f'{error.name} is not installed; run: pip install "diffusion_train[{_EXTRAS[error.name]}]"', file=sys.stderr
        )
        return Exit.WRONG
    except KeyboardInterrupt as signaled:
        what = f"{signaled}: interrupted" if isinstance(signaled, Interrupted) else "interrupted"
        print("\n".join([f"\n{what}", *getattr(signaled, "__notes__", [])]), file=sys.stderr)
        return Exit.STOPPED if isinstance(signaled, Interrupted) else Exit.INTERRUPTED


def tell(error: ValueError) -> None:
    from diffusion_train.config.mistakes import ConfigError
    from diffusion_train.utils.redact import redact_text

    if os.environ.get("DIFFUSION_TRAIN_DEBUG", "") not in ("", "0"):
        traceback.print_exception(error)
    notes = [f"    {note}" for note in getattr(error, "__notes__", [])]
    lines = [redact_text(str(error)), *notes]
    if not isinstance(error, ConfigError):
        lines.append(f"    at {_origin(error)}; DIFFUSION_TRAIN_DEBUG=1 shows how it came to this")
    print("\n".join(lines), file=sys.stderr)


def _origin(error: ValueError) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{os.path.basename(frame.filename)}:{frame.lineno}"
