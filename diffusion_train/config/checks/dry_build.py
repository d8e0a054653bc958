"""Build parts of a config once, to find all settings that they reject."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from omegaconf import DictConfig, OmegaConf

from diffusion_train.config.checks.signatures import target_nodes
from diffusion_train.config.mistakes import Mistake
from diffusion_train.config.targets import build

Refusals = tuple[type[Exception], ...]


def dry_build(cfg: DictConfig, groups: Sequence[str], refusals: Refusals = (ValueError,)) -> Iterator[Mistake]:
    """Build the parts of `groups`, and yield the mistakes that they report by raising `refusals`.

    If a part fails, those inside it are built first. A part that contains or refers to a part with a mistake is not
    built again.
    """
    nodes = [(path, node) for path, node in target_nodes(cfg) if path.split(".")[0] in groups]
    sound: list[str] = []
    for path, node in nodes:  # each before those inside it
        if not _is_inside(path, sound) and not attempt(partial(build, node), path, refusals):
            sound.append(path)
    nodes = [(path, node) for path, node in nodes if not _is_inside(path, sound)]
    faulty: list[str] = []
    for path, node in sorted(nodes, key=lambda item: (groups.index(item[0].split(".")[0]), -item[0].count("."))):
        held = (path, *_referred(node))
        if any(_is_inside(inner, held) for inner in faulty):
            continue
        mistakes = attempt(partial(build, node), path, refusals)
        faulty += [path] * bool(mistakes)
        yield from (_placed(mistake, path, node) for mistake in mistakes)


def _is_inside(inner: str, outers: Sequence[str]) -> bool:
    return any(f"{inner}.".startswith(f"{outer}.") for outer in outers)


def _referred(node: DictConfig) -> list[str]:
    """Return the keys that settings refer to: `sampler` for `${sampler}`."""
    values = OmegaConf.to_container(node, resolve=False).values()  # type: ignore[union-attr]
    return [value[2:-1] for value in values if isinstance(value, str) and re.fullmatch(r"\$\{[\w.]+\}", value)]


def attempt(make: Callable[[], object], where: str, refusals: Refusals = (ValueError,)) -> list[Mistake]:
    """Call `make`, and return the mistakes in the exception if it raises one of `refusals`."""
    try:
        make()
    except refusals as error:
        return list(mistakes_of(error, where))
    return []


def _placed(mistake: Mistake, path: str, node: DictConfig) -> Mistake:
    """Add the path of the part to the part's own settings: `callbacks.checkpointing.num_kept=0` for `num_kept=0`."""
    return replace(mistake, where=f"{path}.{mistake.where}") if mistake.where.partition("=")[0] in node else mistake


def mistakes_of(error: Exception, where: str) -> Iterator[Mistake]:
    """Yield a mistake for each line `key=value: problem` of an error; `where` is used if a line names no key."""
    for line in str(error).splitlines():
        named = re.match(r"([\w.]+(?:=.*?)?): (.*)", line)
        yield Mistake(named[1], named[2]) if named else Mistake(where, line)
