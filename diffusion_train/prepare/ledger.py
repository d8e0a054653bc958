"""The progress of a preparation, recorded on disk beside its shards, so that the next start resumes it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count, takewhile
from pathlib import Path
from typing import Any, NamedTuple

from diffusion_train.prepare.shard_sample import Made, Measures
from diffusion_train.prepare.work import Outcome
from diffusion_train.utils.files import atomic_file, remove_strays

FOLDER = ".prepare"  # inside the folder of the shards
_FORMAT = 4  # version of the files in FOLDER
_STATES = "states.bin"


class Done(NamedTuple):
    """A part of the work: a complete shard of `size` bytes with `num_samples` samples.

    `num_entries` (read) and `num_faults` (faulty) count this and all earlier parts. The last part has no shard: it
    holds the entries left out after the last sample.
    """

    shard: str | None
    size: int
    num_samples: int
    num_faults: int
    num_entries: int


@dataclass
class Details:
    """The results of the entries of one part."""

    measures: list[Measures] = field(default_factory=list)
    left_out: list[tuple[str, str, str, int]] = field(default_factory=list)  # name, reason, detail, how many
    states: bytearray = field(default_factory=bytearray)  # of all entries, one after the other

    def add(self, outcome: Outcome) -> None:
        """Add the result of one entry."""
        name, state, result = outcome
        self.states += state
        if isinstance(result, Made):
            self.measures.append(result.measures)
        else:
            self.left_out.append((name, result.reason, result.detail, result.count))


class Ledger:
    """The record of a preparation in `out`. `settings` is everything that determines what the shards contain.

    Raises ValueError if `out` contains other files or a preparation with other settings.
    """

    def __init__(self, out: Path, settings: dict[str, Any]) -> None:
        self.out, self.folder = out, out / FOLDER
        self._plan: dict[str, Any] = {
            "settings": {"format": _FORMAT, **json.loads(json.dumps(settings))},
            "finished": False,
        }
        refuse_other_things(out)
        self.folder.mkdir(parents=True, exist_ok=True)
        plan = self.folder / "plan.json"
        known: dict[str, Any] = json.loads(plan.read_text("utf-8")) if plan.is_file() else {}
        if known and known["settings"].get("format") != _FORMAT:
            raise ValueError(f"out={out} was made by another version of prepare; delete it, or give another out")
        self.parts = list(takewhile(self._is_whole, self._parts()))
        if known and (known["finished"] or any(done.shard for done in self.parts)):
            _refuse_change(out, known["settings"], self._plan["settings"])
            self._plan = known
        else:
            self._clear()
        self._remove_what_is_not_whole()

    @property
    def finished(self) -> bool:
        """Whether the preparation is finished."""
        return bool(self._plan["finished"])

    @property
    def last(self) -> Done:
        return self.parts[-1] if self.parts else Done(None, 0, 0, 0, 0)

    def states(self) -> bytes:
        """Return the states of all entries that were read, STATE bytes each."""
        if self.finished:
            return (self.folder / _STATES).read_bytes()
        return b"".join(bytes(details.states) for details in self.details())

    def add(self, done: Done, details: Details) -> None:
        """Record a finished part; call it after its shard is written."""
        with atomic_file(self._file(len(self.parts))) as file:
            file.write(json.dumps(done).encode() + b"\n")
            file.write(json.dumps([details.measures, details.left_out, details.states.hex()]).encode())
        self.parts.append(done)

    def details(self) -> Iterator[Details]:
        """Yield the details of every part."""
        for number in range(len(self.parts)):
            measures, left_out, states = json.loads(self._file(number).read_bytes().split(b"\n", 1)[1])
            rows = [Measures(*row) for row in measures], [tuple(row) for row in left_out]
            yield Details(*rows, bytearray.fromhex(states))

    def finish(self) -> None:
        """Mark the preparation as finished; only the settings and the states of the entries are kept."""
        with atomic_file(self.folder / _STATES) as file:
            file.write(self.states())
        self._plan["finished"] = True
        self._clear()

    def _clear(self) -> None:
        with atomic_file(self.folder / "plan.json") as plan:
            plan.write(json.dumps(self._plan, indent=1).encode())
        for file in self.folder.glob("part-*.json"):
            file.unlink()
        self.parts = []

    def _remove_what_is_not_whole(self) -> None:
        """Remove shards that belong to no part, because they may have other settings, and files of killed processes."""
        for folder in (self.out, self.folder):
            remove_strays(folder)
        if self.finished:
            return
        whole = {done.shard for done in self.parts}
        for shard in self.out.glob("*-[0-9][0-9][0-9][0-9][0-9][0-9].tar"):
            if shard.name not in whole:
                shard.unlink()
                shard.with_name(shard.name + ".index.npz").unlink(missing_ok=True)

    def _parts(self) -> Iterator[Done]:
        for file in takewhile(Path.is_file, map(self._file, count())):
            with file.open("rb") as lines:
                yield Done(*json.loads(lines.readline()))

    def _is_whole(self, done: Done) -> bool:
        path = self.out / (done.shard or "")
        return done.shard is None or (path.is_file() and path.stat().st_size == done.size)

    def _file(self, number: int) -> Path:
        return self.folder / f"part-{number:06d}.json"


def refuse_other_things(out: Path) -> None:
    """Raises ValueError unless `out` does not exist, is an empty folder, or contains a preparation."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"out={out} is a file; give a folder")
    if not out.is_dir() or (out / FOLDER / "plan.json").is_file():
        return
    if others := sorted(item.name for item in out.iterdir() if item.name != FOLDER):
        more = ", ..." if len(others) > 3 else ""
        raise ValueError(f"out={out} contains other files ({', '.join(others[:3])}{more}); give a separate folder")


def _refuse_change(out: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    changed = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    if changed:
        changes = "\n".join(f"    {name}: {before.get(name)} before, {now.get(name)} now" for name in changed)
        raise ValueError(
            f"out={out} was started with other settings; use those, give another out, or delete it\n{changes}"
        )
