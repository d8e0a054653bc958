"""Arguments of a command line, in Hydra's override grammar."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import HydraException

from diffusion_train.config.mistakes import Mistake, first_lines
from diffusion_train.config.secrets import redact_override
from diffusion_train.utils.text import for_shell, quoted

_PARSER = OverridesParser.create()


def parse(arguments: Sequence[str]) -> tuple[list[Override], list[Mistake]]:
    """Return the arguments that follow the override grammar, and a mistake for each of the others."""
    overrides, mistakes = [], []
    for argument in arguments:
        try:
            overrides.append(_PARSER.parse_override(argument))
        except HydraException as error:
            mistakes.append(_grammar_mistake(argument, error))
    return overrides, mistakes


def last_of_each_key(arguments: Sequence[str]) -> tuple[str, ...]:
    """Keep the last argument for each key, so that a script may append its own."""
    last: dict[object, str] = {}
    for number, argument in enumerate(arguments):
        override = _parsed(argument)
        key: object = (override.type, override.get_key_element()) if override else number
        last.pop(key, None)
        last[key] = argument
    return tuple(last.values())


def jobs(arguments: Sequence[str]) -> list[list[str]]:
    """Return command lines of single jobs that together try every choice of a sweep once."""
    choices: list[list[str]] = []
    for argument in arguments:
        override = _parsed(argument)
        if override is None or not override.is_sweep_override():
            choices.append([argument])
        elif override.value_type in (ValueType.CHOICE_SWEEP, ValueType.SIMPLE_CHOICE_SWEEP, ValueType.RANGE_SWEEP):
            key = override.get_key_element()
            choices.append([f"{key}={value}" for value in override.sweep_string_iterator()])
    count = max((len(choice) for choice in choices), default=1)
    return [[choice[min(job, len(choice) - 1)] for choice in choices] for job in range(count)]


def sweep_mistakes(arguments: Sequence[str]) -> list[Mistake]:
    """Return a mistake for each value such as `a,b`, which means one run each and needs --multirun."""
    mistakes = []
    for override in parse(arguments)[0]:
        if override.is_sweep_override():
            key, value = override.get_key_element(), override.get_value_string()
            remedy = (
                f"""add --multirun for one run each, or write {key}=[{value}] for a list, "{key}='{value}'" for text"""
            )
            mistakes.append(Mistake(str(override.input_line), "has several values", remedy))
    return mistakes


def given(is_kept: Callable[[str], bool]) -> list[str]:
    """Return the words of the running command that set a key for which `is_kept` is true, and its flags.

    They are quoted for a shell and hold no secrets.
    """
    words = sys.argv[1:]
    words = words[1:] if words and not re.search(r"=|^-", words[0]) else words  # the name of the command
    kept = [word for word in words if "=" not in word or is_kept(word.lstrip("+~").partition("=")[0])]
    shown = [redact_override(word) if _parsed(word) else word for word in kept]
    return [word if re.fullmatch(r"[\w./@%+~=:,-]+", word, re.ASCII) else for_shell(word) for word in shown]


def _grammar_mistake(argument: str, error: Exception) -> Mistake:
    key, separator, value = argument.partition("=")
    if not separator:
        if key.startswith("-"):
            return Mistake(argument, "no such option", "--help lists them")
        return Mistake(argument, "must have the form key=value", f"write {key}=<value>")
    for candidate in (f"{key}={_quoted_items(value)}", f"{key}={quoted(value)}"):
        if _parsed(candidate):
            return Mistake(argument, f"the value {value!r} needs quotes", f"write {for_shell(candidate)}")
    return Mistake(argument, f"cannot be read: {first_lines(error)}")


def _parsed(argument: str) -> Override | None:
    """Return the parsed argument, or None if it does not follow the override grammar."""
    try:
        return _PARSER.parse_override(argument)
    except HydraException:
        return None


def _quoted_items(value: str) -> str:
    """Quote the items of a list: [x-{0..9}.tar, y.tar] -> ['x-{0..9}.tar','y.tar']."""
    if not (value.startswith("[") and value.endswith("]")):
        return quoted(value)
    items = [item.strip() for item in re.split(r",(?![^{]*\})", value[1:-1])]
    return "[" + ",".join(item if item[:1] in "'\"" else quoted(item) for item in items) + "]"


def first_word(argument: str) -> str:
    """Return the first part of the key: `sampler` for `+sampler.num_steps=20` and for `sampler/grid=karras`."""
    return re.split(r"[./@=]", argument.lstrip("+~"))[0]
