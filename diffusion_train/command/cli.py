"""`diffusion-train <command> [overrides]`, and the same for train.py and sample.py.

A command is a file of this folder with a function `run(cfg) -> int` and the texts SUMMARY and EXAMPLE. A command on a
finished run lists in RUN_KEYS which keys of the run's config it reads. SUMMARY, EXAMPLE and RUN_KEYS are read without
importing the file, so that help and mistakes are printed before torch is loaded.
"""

from __future__ import annotations

import ast
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

from omegaconf import DictConfig

from diffusion_train import __version__
from diffusion_train.config.command_line.call import read_call
from diffusion_train.config.command_line.launch import launch as launch_config
from diffusion_train.config.mistakes import ConfigError, did_you_mean
from diffusion_train.logger.wandb_import import import_wandb
from diffusion_train.utils.exit_code import DISK_ERRORS, Exit
from diffusion_train.utils.process.child_process import end_with
from diffusion_train.utils.process.importing import many_imports
from diffusion_train.utils.process.interruption import Interrupted, interruptible
from diffusion_train.utils.process.launcher import common_code, first_process, starter
from diffusion_train.utils.quiet import plain_warnings
from diffusion_train.utils.redact import redact_text

T = TypeVar("T")
_EXTRAS = {
    "diffusers": "pretrained",
    "transformers": "pretrained",
    "peft": "pretrained",
}  # package -> the extra that installs it


@dataclass(frozen=True)
class Command:
    """A command and the texts of its help. `name` is the name of its file, without the suffix."""

    name: str
    summary: str
    example: str
    description: str
    run_keys: tuple[str, ...] | None = None  # what it reads of a run's config, with everything below


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that `argv` (by default that of the process) names; return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    known = commands()
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview(known))
        return Exit.DONE
    if arguments[0] == "--version":
        print(f"diffusion_train {__version__}")
        return Exit.DONE
    if arguments[0] not in known:
        hint = did_you_mean(arguments[0], known) or "diffusion-train --help lists them"
        print(f"there is no command {arguments[0]!r}; {hint}", file=sys.stderr)
        return Exit.WRONG
    return launch(arguments[0], arguments[1:])


def launch(name: str, arguments: Sequence[str]) -> int:
    """Run a command and return its exit code. Heavy imports wait until the arguments are checked."""
    if any(argument in ("-h", "--help") for argument in arguments):
        print(help_text(commands()[name], arguments))
        return Exit.DONE

    def body(cfg: DictConfig) -> int:
        with many_imports():
            if name == "train":
                import_logger(cfg)
            run = importlib.import_module(f"diffusion_train.command.{name}").run
        return guarded(lambda: run(cfg))

    def start() -> int:
        run_keys = commands()[name].run_keys
        with interruptible():
            return launch_config(read_call(name, arguments), body, (Exit.STOPPED, Exit.INTERRUPTED), run_keys)

    if (parent := starter()) is not None:
        end_with(parent)
    with plain_warnings():
        return guarded(start)


def import_logger(cfg: DictConfig) -> None:
    """Import W&B, if this process logs to it, before the libraries that make its import slow."""
    if "wandb" in (cfg.get("logger") or {}) and first_process():
        with suppress(Exception):  # a logger ends no run; this one warns when it starts
            import_wandb()


def guarded(body: Callable[[], T]) -> T | Exit:
    """Return what `body` returns; print an error that the user can correct, without its traceback, and return its code.

    Such errors are a ValueError or a missing package of an extra (Exit.WRONG), and a disk that accepts no more data
    (Exit.STORAGE). Ctrl-C and a cluster's signals are reported too. All other exceptions pass through.
    DIFFUSION_TRAIN_DEBUG=1 shows the traceback.
    """
    try:
        return body()
    except ValueError as error:
        _print_error(error)
        return Exit.WRONG
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print("\n".join([f"{where}{error.strerror}", *getattr(error, "__notes__", [])]), file=sys.stderr)
        return Exit.STORAGE
    except ModuleNotFoundError as error:
        if error.name not in _EXTRAS:
            raise
        install = f'pip install "diffusion_train[{_EXTRAS[error.name]}]"'
        print(f"{error.name} is not installed; run: {install}", file=sys.stderr)
        return Exit.WRONG
    except KeyboardInterrupt as signaled:
        what = f"{signaled}: interrupted" if isinstance(signaled, Interrupted) else "interrupted"
        print("\n".join([f"\n{what}", *getattr(signaled, "__notes__", [])]), file=sys.stderr)
        return common_code(Exit.STOPPED if isinstance(signaled, Interrupted) else Exit.INTERRUPTED)


def _print_error(error: ValueError) -> None:
    if os.environ.get("DIFFUSION_TRAIN_DEBUG", "") not in ("", "0"):
        traceback.print_exception(error)
    lines = [redact_text(str(error)), *(f"    {note}" for note in getattr(error, "__notes__", []))]
    if not isinstance(error, ConfigError):
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{os.path.basename(frame.filename)}:{frame.lineno}"
        lines.append(f"    at {where}; DIFFUSION_TRAIN_DEBUG=1 shows the traceback")
    print("\n".join(lines), file=sys.stderr)


@cache
def commands() -> dict[str, Command]:
    found = (_read(file) for file in sorted(Path(__file__).parent.glob("*.py")))
    return {command.name: command for command in found if command}


def overview(known: dict[str, Command]) -> str:
    width = max(map(len, known))
    lines = [f"  {command.name:<{width}}  {command.summary}" for command in known.values()]
    return "\n".join(
        [
            "diffusion-train <command> [key=value ...]",
            "",
            *lines,
            "",
            "diffusion-train <command> --help shows its settings and an example.",
        ]
    )


def help_text(command: Command, arguments: Sequence[str] = ()) -> str:
    """Return the text of `--help`: an example, the settings with their comments, and the groups with their options."""
    call = read_call(command.name, [argument for argument in arguments if argument not in ("-h", "--help")])
    lines = [f"{command.name}: {command.summary}", ""]
    if command.description.rstrip(".").lower() != command.summary.lower():
        lines += [command.description, ""]
    lines += ["Example:", *(f"  {line}" for line in command.example.splitlines()), ""]
    lines += ["Settings (key=value):", *_settings(call.settings, call.comments), ""]
    if groups := [f"  {group}: {', '.join(names)}" for group, names in call.groups.items()]:
        lines += ["Groups (group=option):", *groups, ""]
    lines += [
        "--cfg job prints the whole config; --config-dir FOLDER adds your own groups and options;",
        "allow_targets=[my_package.] trusts your own classes.",
        *(["--multirun runs once for each value of key=a,b."] if "run_dir" in call.settings else []),
    ]
    return "\n".join(lines)


def _settings(settings: dict[str, object], comments: dict[str, str]) -> list[str]:
    rows = [(f"  {key}={_printable(value)}", comments.get(key, "")) for key, value in _plain(settings)]
    width = max((len(setting) for setting, comment in rows if comment and len(setting) <= 40), default=0)
    return [f"{setting:<{width}}  {comment}".rstrip() for setting, comment in rows]


def _plain(settings: dict[str, object], path: str = "") -> Iterator[tuple[str, object]]:
    """Yield (dotted key, value) of every setting, except those inside a part (a node with `_target_`)."""
    for key, value in settings.items():
        if isinstance(value, dict) and "_target_" not in value:
            yield from _plain(value, f"{path}{key}.")
        elif not isinstance(value, dict) and key != "defaults":
            yield f"{path}{key}", value


def _printable(value: object) -> str:
    return "<required>" if value == "???" else "null" if value is None else str(value)


def _read(file: Path) -> Command | None:
    """Return the command in a file, or None if the file has no function `run`."""
    tree = ast.parse(file.read_text("utf-8"))
    if not any(isinstance(node, ast.FunctionDef) and node.name == "run" for node in tree.body):
        return None
    texts = {
        target.id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name) and target.id in ("SUMMARY", "EXAMPLE", "RUN_KEYS")
    }
    description = ast.get_docstring(tree) or ""
    summary = texts.get("SUMMARY", description.split("\n")[0])
    example = texts.get("EXAMPLE", f"diffusion-train {file.stem}")
    return Command(file.stem, summary, example, description, texts.get("RUN_KEYS"))
