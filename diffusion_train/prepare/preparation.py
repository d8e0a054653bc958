"""Make shards from a source: many processes read, and shards are written one after the other, each atomically.

A shard ends with the sample that fills it, whichever process reads it and however often the command is stopped, so the
same source and settings always give the same bytes.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tqdm import tqdm

from diffusion_train.data.shard.writer import Sample, shard_name, write_shard
from diffusion_train.prepare.image.formats import READABLE
from diffusion_train.prepare.keys import Keys
from diffusion_train.prepare.ledger import Details, Done, Ledger
from diffusion_train.prepare.shard_sample import Rules
from diffusion_train.prepare.source.base import REASONS, STATE, Entry, LeftOut, Source, refuse
from diffusion_train.prepare.work import Outcome, keep_index, make_all
from diffusion_train.utils.files import atomic_file
from diffusion_train.utils.process.workers import Workers, available
from diffusion_train.utils.text import printable

LEFT_OUT = "left_out.jsonl"
_AT_ONCE = 8  # entries in one task of a process
_MIN_ENTRIES = 1000  # entries that are read before too many faults are reported
Outcomes = Generator[Outcome, None, None]


class TooManyFaults(ValueError):
    """The fraction of faulty entries is larger than `max_bad_share`."""


@dataclass(frozen=True)
class Preparation:
    """Settings of a preparation. `samples_per_shard` samples or `mib_per_shard` MiB, whichever is first, fill a shard.

    `num_workers` processes read the source, by default one for each processor. Raises ValueError for wrong settings.
    """

    rules: Rules
    name: str = "images"
    samples_per_shard: int = 10_000
    mib_per_shard: int = 256
    max_bad_share: float = 0.1
    num_workers: int | None = None

    def __post_init__(self) -> None:
        samples, mib, fraction, workers = (
            self.samples_per_shard,
            self.mib_per_shard,
            self.max_bad_share,
            self.num_workers,
        )
        mistakes = {
            f"samples_per_shard={samples}: must be at least 1": samples < 1,
            f"mib_per_shard={mib}: must be at least 1": mib < 1,
            f"num_workers={workers}: must be at least 0": workers is not None and workers < 0,
            f"max_bad_share={fraction}: must be a fraction from 0 to 1": not 0 <= fraction <= 1,
            f"name={self.name}: must be a name without dots, slashes, braces or wildcards": not self.name
            or set(self.name) & set("/{}*?[]."),
        }
        refuse("prepare", mistakes)

    def write(self, source: Source, ledger: Ledger) -> None:
        """Write the missing shards to the ledger's folder; does nothing if all are written.

        Raises TooManyFaults if more than `max_bad_share` of the entries are faulty, ValueError if the source has
        changed since the first start or no sample is left, and OSError if a file cannot be written.
        """
        if ledger.finished:
            entries = source.entries(skip=len(ledger.states()) // STATE)
            for _ in unchanged(entries, ledger):
                pass
            if (new := next(entries, None)) is not None:
                raise changed(ledger.out, new.name)
            return
        with Workers(available() if self.num_workers is None else self.num_workers) as workers:
            for done in ledger.parts:
                if done.shard:
                    workers.later(keep_index, ledger.out / done.shard)
            run = _Run(self, source, ledger, workers)
            try:
                run.seek()
            except TooManyFaults:
                write_left_out(ledger, run.details)
                raise
        write_left_out(ledger)
        if not sum(done.num_samples for done in ledger.parts):
            listed = reasons(ledger.details())
            raise ValueError(f"all {ledger.last.num_entries:,} entries of the source are left out\n{listed}")


def write_left_out(ledger: Ledger, further: Details | None = None) -> None:
    """Write LEFT_OUT: name, reason, detail and count of each entry left out, as JSON lines.

    Without any there is no file.
    """
    path = ledger.out / LEFT_OUT
    path.unlink(missing_ok=True)
    lines = (
        json.dumps({"name": name, "reason": reason, "detail": detail, "count": count}).encode() + b"\n"
        for details in itertools.chain(ledger.details(), [further or Details()])
        for name, reason, detail, count in details.left_out
    )
    if (first := next(lines, None)) is not None:
        with atomic_file(path) as file:
            file.writelines(itertools.chain([first], lines))


def unchanged(entries: Iterator[Entry], ledger: Ledger) -> Iterator[Entry]:
    """Yield the entries that were read before. Raises ValueError at the first that has changed since."""
    states = ledger.states()
    known = range(0, len(states), STATE)
    with tqdm(desc="Comparing", total=len(known), unit="file", delay=2, disable=None) as bar:
        for start in known:
            entry = next(entries, None)
            if entry is None:
                raise changed(ledger.out, f"its end, after {start // STATE:,} of {len(known):,} entries")
            if entry.state() != states[start : start + STATE]:
                raise changed(ledger.out, entry.name)
            bar.update()
            yield entry


def changed(out: Path, first: str) -> ValueError:
    """Return the error for a source that has changed; `first` is the first entry that differs."""
    return ValueError(
        f"the source has changed since out={out} was started: a file was added, removed or modified, first at {first}; "
        "delete the folder, or give another out"
    )


class _Run:
    """One start of the command."""

    def __init__(self, settings: Preparation, source: Source, ledger: Ledger, workers: Workers) -> None:
        self.settings, self.source, self.ledger, self.workers = settings, source, ledger, workers
        self.total = source.total()
        if not self.total and not ledger.parts:
            raise ValueError(f"path: contains no image with a name in .{', .'.join(READABLE)}")
        self.num_entries = ledger.last.num_entries
        self.num_faults = ledger.last.num_faults
        self.details = Details()

    def seek(self) -> None:
        self._refuse_faults(self.ledger.last.num_entries)
        if self.ledger.parts and self.ledger.last.shard is None:
            return
        with closing(self._outcomes()) as outcomes:
            while self._write_one(outcomes):
                pass

    def _write_one(self, outcomes: Outcomes) -> bool:
        """Write one shard; return False if no sample is left."""
        self.details = Details()
        samples = self._until_full(outcomes)
        first = next(samples, None)
        if first is None:
            self._refuse_faults(self.total)
            self._add(None)
            return False
        shard = shard_name(self.settings.name, len(self.ledger.parts))
        write_shard(itertools.chain([first], samples), self.ledger.out / shard)
        self._add(shard)
        self.workers.later(keep_index, self.ledger.out / shard)
        return True

    def _add(self, shard: str | None) -> None:
        size = (self.ledger.out / shard).stat().st_size if shard else 0
        samples = len(self.details.measures)
        self.ledger.add(Done(shard, size, samples, self.num_faults, self.num_entries), self.details)

    def _outcomes(self) -> Outcomes:
        done, keys = self.num_entries, Keys()
        entries = self.source.entries(skip=done)
        for entry in unchanged(entries, self.ledger):
            keys(entry.key or entry.name)
        todo = ((keys(entry.key or entry.name), entry) for entry in entries)
        chunks = iter(lambda: list(itertools.islice(todo, _AT_ONCE)), [])
        with tqdm(desc="Preparing", total=self.total, initial=done, unit="file", mininterval=0.5, disable=None) as bar:
            for outcomes in self.workers.map(partial(make_all, self.settings.rules), chunks):
                yield from outcomes
                bar.update(len(outcomes))

    def _until_full(self, outcomes: Outcomes) -> Iterator[Sample]:
        size = 0
        for outcome in outcomes:
            self.num_entries += 1
            self.details.add(outcome)
            result = outcome.result
            if isinstance(result, LeftOut):
                self.num_faults += result.count * result.is_fault
            self._refuse_faults(self.num_entries)
            if isinstance(result, LeftOut):
                continue
            size += sum(len(member) for member in result.sample.values() if isinstance(member, bytes))
            yield result.sample
            if (
                len(self.details.measures) >= self.settings.samples_per_shard
                or size >= self.settings.mib_per_shard << 20
            ):
                return

    def _refuse_faults(self, num_entries: int) -> None:
        """Raises TooManyFaults, but only after `_MIN_ENTRIES` entries, so that its reasons are representative."""
        too_many = self.num_faults > self.settings.max_bad_share * self.total
        if too_many and num_entries >= min(self.total, _MIN_ENTRIES):
            raise TooManyFaults(
                f"{self.num_faults:,} of the first {num_entries:,} entries are faulty, more than prepare.max_bad_share="
                f"{self.settings.max_bad_share} allows; {self.ledger.out / LEFT_OUT} lists them\n"
                + reasons(itertools.chain(self.ledger.details(), [self.details]))
            )


def reasons(all_details: Iterable[Details]) -> str:
    """Return a line for each reason to leave out entries: count, reason, meaning and the first entry."""
    counts: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for details in all_details:
        for name, reason, detail, count in details.left_out:
            counts[reason] += count
            examples.setdefault(reason, f"{name!r}{f' ({printable(detail, 200)})' if detail else ''}")
    return "\n".join(
        f"    {count:,} {reason}: {REASONS[reason].meaning}; first {examples[reason]}"
        for reason, count in counts.most_common()
    )
