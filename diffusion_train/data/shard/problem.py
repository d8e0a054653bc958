"""Faults of data: each with its place and the rule it breaks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One fault of a shard: of a sample (`key`) where it concerns one, at a byte of the shard where known.

    `rule` is the kind of fault, such as "torn-shard"; `detail` says the rest. `shard` is "" for a fault of all together.
    """

    rule: str
    shard: str
    detail: str
    key: str | None = None
    offset: int | None = None

    def __str__(self) -> str:
        where = "" if self.offset is None else f" at byte {self.offset}"
        sample = "" if self.key is None else f"sample {self.key!r}: "
        shard = f"{self.shard}{where}: " if self.shard else ""
        return f"{shard}{sample}{self.detail}"


class DataError(ValueError):
    """Data that cannot be trained on; `problems` lists the faults where there are several."""

    problems: tuple[Problem, ...] = ()

    @classmethod
    def listing(cls, problems: Sequence[Problem], most: int = 30) -> DataError:
        lines = [f"  {problem}" for problem in problems[:most]]
        if len(problems) > most:
            lines.append(f"  ... and {len(problems) - most} more")
        error = cls("\n".join([f"{len(problems)} problem(s) with data.shards:", *lines]))
        error.problems = tuple(problems)
        return error
