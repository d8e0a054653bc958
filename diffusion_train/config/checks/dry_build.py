"""Making parts of a config once, to hear of all settings that they cannot take."""

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
    """What the parts of `groups` say of their settings by one of `refusals`, group by group from the inside out.

    A part that holds one with a mistake, or refers to one, is not built.
    """
    nodes = [(path, node) for path, node in target_nodes(cfg) if path.split(".")[0] in groups]
    faulty: list[str] = []
    for path, node in sorted(nodes, key=lambda item: (groups.index(item[0].split(".")[0]), -item[0].count("."))):
        held = (path, *_referred(node))
        if any(f"{inner}.".startswith(f"{outer}.") for inner in faulty for outer in held):
            continue
        mistakes = attempt(partial(build, node), path, refusals)
        faulty += [path] * bool(mistakes)
        yield from (_placed(mistake, path, node) for mistake in mistakes)


def _referred(node: DictConfig) -> list[str]:
    """`sampler` where a setting is `${sampler}`."""
    values = OmegaConf.to_container(node, resolve=False).values()  # type: ignore[union-attr]
    return [value[2:-1] for value in values if isinstance(value, str) and re.fullmatch(r"\$\{[\w.]+\}", value)]


def attempt(make: Callable[[], object], where: str, refusals: Refusals = (ValueError,)) -> list[Mistake]:
    """What `make` says by one of `refusals`: exceptions that tell of wrong settings."""
    try:
        make()
    except refusals as error:
        return list(mistakes_of(error, where))
    return []


def _placed(mistake: Mistake, path: str, node: DictConfig) -> Mistake:
    """`callbacks.checkpointing.num_kept=0` of `num_kept=0`, where that is a setting of the part's own."""
    return replace(mistake, where=f"{path}.{mistake.where}") if mistake.where.partition("=")[0] in node else mistake


def mistakes_of(error: Exception, where: str) -> Iterator[Mistake]:
    """A ValueError says `key=value: what is wrong` in each line; `where` stands for a key that it does not name."""
    for line in str(error).splitlines():
        named = re.match(r"([\w.]+(?:=.*?)?): (.*)", line)
        yield Mistake(named[1], named[2]) if named else Mistake(where, line)
