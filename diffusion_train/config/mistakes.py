"""Mistakes in a configuration, reported all at once and with a remedy."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from diffusion_train.utils.redact import redact_text

# Hydra and OmegaConf raise plain Python errors for some wrong arguments.
ERRORS = (HydraException, OmegaConfBaseException, ValueError, TypeError, AttributeError, AssertionError)


@dataclass(frozen=True)
class Mistake:
    """A mistake in the configuration. `where` is the argument or the key that it concerns."""

    where: str
    problem: str
    remedy: str = ""

    def __str__(self) -> str:
        text = f"{redact_text(self.where)}\n    {redact_text(self.problem)}"
        return f"{text}; {redact_text(self.remedy)}" if self.remedy else text


class ConfigError(ValueError):
    """A configuration with mistakes, which are listed in `mistakes`."""

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        self.mistakes = list(dict.fromkeys(mistakes))
        title = f"{len(self.mistakes)} mistake{'s' * (len(self.mistakes) != 1)} in the configuration:"
        super().__init__("\n".join([title, *(f"  {mistake}" for mistake in self.mistakes)]))


def raise_all(mistakes: Sequence[Mistake]) -> None:
    if mistakes:
        raise ConfigError(mistakes)


def unwritable(key: str, folder: Path) -> Iterator[Mistake]:
    """Yield a mistake if a folder, or the nearest existing one above it, cannot be written to."""
    folder = folder.absolute()
    try:
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        with TemporaryFile(dir=existing):
            pass
    except OSError as error:
        yield Mistake(f"{key}={folder}", f"cannot be written to ({error.strerror})", f"give another {key}")


def too_small(settings: Mapping[str, Any], **least: int) -> list[Mistake]:
    """Return a mistake for each setting below its minimum in `least`; null is allowed."""
    given = {name: settings[name] for name in least if settings[name] is not None}
    return [
        Mistake(f"{name}={value}", f"must be at least {least[name]}")
        for name, value in given.items()
        if value < least[name]
    ]


def unknown_names(key: str, given: Iterable[object], known: Iterable[str], problem: str) -> list[Mistake]:
    """Return a mistake with `problem` for each entry of the list setting `key` that is not one of `known`."""
    names = list(known)
    return [
        Mistake(f"{key}=[{name}]", problem, did_you_mean(str(name), names) or ", ".join(names))
        for name in given
        if name not in names
    ]


def no_option(argument: str, group: str, value: object, options: Sequence[str]) -> Mistake:
    remedy = f"{did_you_mean(str(value), options)} options: {listed(options)}".strip()
    return Mistake(argument, f"group {group!r} has no option {value!r}", remedy)


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """Return a question with the one to three nearest of `candidates`, or "" if none is near."""
    scores = {candidate: _likeness(word, candidate) for candidate in candidates if candidate != word}
    best = max(scores.values(), default=0.0)
    if best < 0.65:
        return ""
    nearest = sorted((name for name, score in scores.items() if score > best - 0.03), key=lambda n: -scores[n])
    return f"did you mean {' or '.join(nearest[:3])}?"


def unknown_key(argument: str, key: str, names: Iterable[str], options: Sequence[str], addable: bool) -> str:
    """Return the remedy for an unknown key.

    `options` are those of its group that have it. `addable` says whether something may read it if it is added.
    """
    if len(options) == 1:
        return f"only {options[0]} has this key; write {options[0]} {argument}"
    if options:
        return f"options with this key: {listed(options)}"
    return did_you_mean(key, names) or (f"to add a new key, write +{argument}" if addable else "leave it out")


def _likeness(word: str, candidate: str) -> float:
    """Compare whole names, or their last parts at a small discount: `batch_size` is near `data.batch_size`."""
    whole = SequenceMatcher(None, word, candidate).ratio()
    last = SequenceMatcher(None, _last(word), _last(candidate)).ratio()
    return max(whole, 0.9 * last)


def _last(name: str) -> str:
    return re.split(r"[./]", name)[-1]


def first_lines(error: BaseException) -> str:
    """Return the message of Hydra or OmegaConf without search path and object types."""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    lines = [line.strip() for line in str(cause).splitlines()]
    ends = [i for i, line in enumerate(lines) if re.match(r"(full_key|object_type|Config search path|See http)", line)]
    return " ".join(line for line in lines[: min(ends, default=len(lines))] if line)


def listed(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
