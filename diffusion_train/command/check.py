"""Look for faults in shards: damaged tars, missing or unusable images and captions, near-duplicates and licences."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from diffusion_train import config, page
from diffusion_train.assembly import build_token_counter
from diffusion_train.check import tables
from diffusion_train.check.contact_sheet import contact_sheet
from diffusion_train.check.contents import of_contents
from diffusion_train.check.copies import find_copies, of_copies
from diffusion_train.check.rules import RULES, by_rule, in_order
from diffusion_train.check.samples import Samples
from diffusion_train.command.next_commands import after_check
from diffusion_train.data.caption.tokens import Tokens
from diffusion_train.data.data_settings import ShardData
from diffusion_train.data.order.buckets import Occupancy
from diffusion_train.data.selection import Indices
from diffusion_train.data.shard.catalog import Catalog
from diffusion_train.data.shard.catalog_builder import Shards, open_shards
from diffusion_train.data.shard.problem import DataError, Problem
from diffusion_train.data.storage.base import StorageError
from diffusion_train.data.storage.by_scheme import StorageByScheme
from diffusion_train.utils.exit_code import Exit
from diffusion_train.utils.files import atomic_file
from diffusion_train.utils.process.workers import WorkerDied

SUMMARY = "look for faults in shards"
EXAMPLE = """\
diffusion-train check "data.shards='shards/images-{000..009}.tar'" out=checked data.image_size=64
diffusion-train check "data.shards='shards/images-{000..009}.tar'" out=checked data.holdout=0.01 \
pretrained=<model> ignore=[exif-rotation]"""

READ = ("out", "ignore", "max_aspect", "num_shown", "num_workers", "pretrained", "base", "base_record")
# With one of these problems there is no shard to check.
UNUSABLE = {"missing-shard", "duplicate-shard", "unreadable-shard"}


def run(cfg: DictConfig) -> int:
    """Check the settings and then the shards; return the exit code. Raises ConfigError and DataError."""
    config.check(cfg, read=READ)
    refuse(cfg)
    if cfg.pretrained:
        config.place_files(cfg, weights=False)
    try:
        return check(cfg)
    except (StorageError, WorkerDied) as error:
        print(f"{error}; the check is not complete", file=sys.stderr)
        return Exit.STORAGE


def refuse(cfg: DictConfig) -> None:
    """Raises ConfigError with every mistake in the command's own settings."""
    mistakes = config.unknown_names("ignore", cfg.ignore, RULES, "there is no such rule")
    if "storage" not in cfg.data:
        problem = "check only reads shards that can be indexed"
        mistakes.append(config.Mistake("data", problem, "choose data=shards, openmoji, simple_icons or brand_icons"))
    mistakes += config.too_small(cfg, num_shown=1, max_aspect=1, num_workers=0)
    mistakes += config.unwritable("out", Path(cfg.out))
    config.raise_all(mistakes)


def check(cfg: DictConfig) -> int:
    """Check the shards, write report.json and contact_sheet.html, and print a summary; return the exit code."""
    tokens = build_token_counter(cfg)
    data: ShardData = config.build(cfg.data)
    storage = StorageByScheme(data.storage)
    catalog, problems = opened(data.shards, storage)
    seen = looked_at(cfg, data, catalog, storage, tokens) if catalog else Findings(problems)
    seen.problems = in_order(seen.problems, cfg.ignore)
    out = Path(cfg.out)
    with atomic_file(out / "report.json") as file:
        file.write(json.dumps(list(map(entry, seen.problems)), indent=1).encode())
    if seen.samples:
        sheet = contact_sheet(seen.samples, seen.problems, seen.train, seen.held_out, seen.twins, cfg.num_shown)
        with atomic_file(out / "contact_sheet.html") as file:
            file.write(sheet.encode("utf-8", "replace"))
    is_sound = all(RULES[problem.rule].severity != "error" for problem in seen.problems)
    print(summary(seen, tokens is not None, out, after_check(cfg) if is_sound else []), end="", flush=True)
    return Exit.FOUND if seen.problems else Exit.DONE


@dataclass
class Findings:
    """What a check found.

    `train` and `held_out` (n,) are sample numbers; `twins` maps a sample to the one it looks like.
    """

    problems: list[Problem]
    samples: Samples | None = None
    train: Indices = field(default_factory=lambda: np.empty(0, np.int64))
    held_out: Indices = field(default_factory=lambda: np.empty(0, np.int64))
    twins: dict[int, int] = field(default_factory=dict)
    occupancy: Sequence[Occupancy] = ()


def opened(shards: Shards, storage: StorageByScheme) -> tuple[Catalog | None, list[Problem]]:
    """Return the catalog, or None and the problems if the shards contain no sample.

    Raises DataError for unusable shards.
    """
    try:
        return open_shards(shards, storage), []
    except DataError as error:
        if not error.problems or UNUSABLE & {problem.rule for problem in error.problems}:
            raise
        return None, list(error.problems)


def looked_at(
    cfg: DictConfig, data: ShardData, catalog: Catalog, storage: StorageByScheme, tokens: Tokens | None
) -> Findings:
    """Return the findings of all rules: on the index, on the contents of samples and on the data set as a whole."""
    captions, selection, order_spec = data.captions, data.selection(), data.order_spec()
    samples = Samples(catalog, captions, data.preprocess(), storage, data.images or {}, order_spec.shapes)
    train, held_out = tables.split(catalog, captions, selection)
    occupancy = tables.occupancy(catalog, train, order_spec, data.batch_size)
    problems = [
        *tables.of_samples(catalog, captions, selection, data.image_size, cfg.max_aspect),
        *tables.unused(catalog, samples.images.values()),
        *tables.thin_buckets(occupancy),
    ]
    contents = of_contents(samples, tokens, cfg.num_workers)
    copies = find_copies(contents.looks, *(some[contents.decoded[some]] for some in (train, held_out)))
    problems += [*contents.problems, *of_copies(catalog, captions.extensions, copies)]
    twins = {**copies.near, **copies.leaked}
    return Findings(problems, samples, train, held_out, twins, occupancy)


def entry(problem: Problem) -> dict[str, Any]:
    facts = {name: value for name, value in vars(problem).items() if name != "offset" or value is not None}
    return {"severity": RULES[problem.rule].severity, **facts}


def summary(seen: Findings, counted_tokens: bool, out: Path, then: Sequence[str]) -> str:
    """Return the text to print: for each rule, the worst first, a count, an example and a remedy; then the buckets.

    `then` are lines with the commands to run next.
    """
    found, count = by_rule(seen.problems), len(seen.problems)
    given = {**vars(seen), "rules": RULES, "found": found, "num_problems": count, "counted_tokens": counted_tokens}
    return page.plain("diffusion_train.check", "findings.txt", out=out, then=then, **given)
