"""The entry point of all programs. It installs signal handlers before the imports that take time."""

from __future__ import annotations

import sys

from diffusion_train.utils.process.importing import many_imports
from diffusion_train.utils.process.interruption import exit_at_signals
from diffusion_train.utils.streams import unbroken_streams


def main(command: str | None = None) -> int:
    """Run `command`, or the one that the first argument names; return its exit code."""
    exit_at_signals()
    with unbroken_streams():
        with many_imports():
            from diffusion_train.command import cli

        return cli.launch(command, sys.argv[1:]) if command else cli.main()
