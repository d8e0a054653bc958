"""Faults of data: each has a location and the rule that it breaks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One fault of a shard; `key` is that of the sample, `offset` the byte in the shard, if there is one.

    `rule` is the kind of fault, such as "torn-shard", and `detail` describes it. `shard` is "" for a fault of all
    shards.
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
    """Data that cannot be trained on; `problems` are the faults, if they are known individually."""

    problems: tuple[Problem, ...] = ()

    @classmethod
    def listing(cls, problems: Sequence[Problem], most: int = 30) -> DataError:
        """Return an error with all problems, whose message lists the first `most`."""
        lines = [f"  {problem}" for problem in problems[:most]]
        if len(problems) > most:
            lines.append(f"  ... and {len(problems) - most} more")
        error = cls("\n".join([f"{len(problems)} problem(s) with data.shards:", *lines]))
        error.problems = tuple(problems)
        return error
