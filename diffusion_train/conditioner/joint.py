"""Several conditioners in one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import nn

from diffusion_train.conditioner.base import Cond, Conditioner
from diffusion_train.conditioner.text.encoder import FrozenText


class Joint(Conditioner):
    """Merges the conditions of all `parts`. Raises ValueError if two parts return a condition of the same name."""

    def __init__(self, parts: Mapping[str, Conditioner]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(dict(parts))
        self._parts = dict(parts)  # the same parts, typed as conditioners
        self.reads_captions = any(part.reads_captions for part in parts.values())
        self.reads_images = any(part.reads_images for part in parts.values())

    def forward(self, batch: dict[str, Any]) -> Cond:
        return self._merged({name: part(batch) for name, part in self._parts.items()})

    def null(self, n: int) -> Cond:
        return self._merged({name: part.null(n) for name, part in self._parts.items()})

    def caption_check(self) -> Callable[[str], object] | None:
        checks = [check for part in self._parts.values() if (check := part.caption_check())]
        return partial(_check_all, checks) if checks else None

    def texts(self) -> list[FrozenText]:
        return [text for part in self._parts.values() for text in part.texts()]

    def warm_up(self, captions: Iterable[str]) -> None:
        for part in self._parts.values():
            part.warm_up(captions)

    def _merged(self, conds: Mapping[str, Cond]) -> Cond:
        merged: Cond = {}
        for part, cond in conds.items():
            if clash := merged.keys() & cond.keys():
                names = ", ".join(sorted(clash))
                raise ValueError(f"conditioner.parts.{part} must not return {names}: another part returns it")
            merged |= cond
        return merged


def _check_all(checks: Sequence[Callable[[str], object]], caption: str) -> None:
    for check in checks:
        check(caption)
