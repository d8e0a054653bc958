"""Import many modules at once."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def many_imports() -> Iterator[None]:
    """Pause the garbage collector while the block imports modules.

    Modules stay until the process ends. Thousands of them make the collector look at all objects again and again, which
    takes a sixth of the time. Later collections leave out the objects that a block with a new module leaves behind.
    """
    was_enabled, num_modules = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > num_modules:
            gc.freeze()
        if was_enabled:
            gc.enable()
