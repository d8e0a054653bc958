"""Making parts of a config once, to hear of all settings that they cannot take."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from fnmatch import fnmatch

from omegaconf import DictConfig

from diffusion_train.config.check import target_nodes
from diffusion_train.config.mistakes import Mistake
from diffusion_train.config.targets import build


def trial(cfg: DictConfig, groups: Collection[str], without: Collection[str] = ()) -> Iterator[Mistake]:
    """What the parts of `groups` say of their settings by a ValueError, from the inside out.

    `without` are parts that need data, by patterns, and are not made; nor is one that holds a part with a mistake.
    """
    nodes = sorted(target_nodes(cfg), key=lambda node: -node[0].count("."))
    faulty: list[str] = []
    for path, node in nodes:
        if path.split(".")[0] not in groups or any(fnmatch(path, pattern) for pattern in without):
            continue
        if any(inner.startswith(f"{path}.") for inner in [*faulty, *without]):
            continue
        try:
            build(node)
        except ValueError as error:
            faulty.append(path)
            yield from mistakes_of(error, path)


def mistakes_of(error: ValueError, where: str) -> Iterator[Mistake]:
    """A ValueError says `key=value: what is wrong` in each line; `where` stands for a key that it does not name."""
    for line in str(error).splitlines():
        named = re.match(r"([\w.]+(?:=.*?)?): (.*)", line)
        yield Mistake(named[1], named[2]) if named else Mistake(where, line)
