"""Look for faults in shards: torn tars, samples that are no pair, images and captions that cannot be used, rights."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

SUMMARY = "look for faults in shards"
EXAMPLE = "diffusion-train check \"data.shards='shards/images-{000..009}.tar'\" out=checked data.image_size=64"

# Whoever finds one of these finds no shard to check.
UNUSABLE = {"missing-shard", "duplicate-shard", "unreadable-shard"}


def run(cfg: Any) -> int:
    from diffusion_train import config
    from diffusion_train.command.exit import Exit
    from diffusion_train.data.storage.base import StorageError

    config.check(cfg, read=("out", "ignore", "max_aspect", "num_shown", "data"))
    try:
        return check(cfg)
    except StorageError as error:
        print(f"{error}; the check is not complete", file=sys.stderr)
        return Exit.STORAGE


def check(cfg: Any) -> int:
    from diffusion_train import config
    from diffusion_train.command.contact_sheet import contact_sheet
    from diffusion_train.command.exit import Exit
    from diffusion_train.utils.cache import atomic_write

    dataset = cfg.data.module.dataset
    parts = {name: config.build(dataset[name]) for name in ("storage", "captions", "view")}
    collection, found = opened(cfg, parts["storage"])
    if collection:
        found += findings(cfg, collection, **parts)
    found = unrepeated(problem for problem in found if problem.rule not in set(cfg.ignore))
    entries = [
        {name: value for name, value in vars(one).items() if name != "offset" or value is not None} for one in found
    ]
    out = Path(cfg.out)
    with atomic_write(out / "report.json") as file:
        file.write(json.dumps(entries, indent=1).encode())
    if collection:
        page = contact_sheet(collection, found=found, num_shown=cfg.num_shown, **parts)
        with atomic_write(out / "contact_sheet.html") as file:
            file.write(page.encode("utf-8", "replace"))
    print("\n".join([*table(found), f"{len(found)} finding(s), all in {out / 'report.json'}"]), flush=True)
    if collection:
        print(f"what training sees: {out / 'contact_sheet.html'}", flush=True)
    return Exit.FOUND if found else Exit.DONE


def unrepeated(problems: Iterable[Any]) -> list[Any]:
    """What the index told of a sample is not told again by reading it."""
    return list({(one.rule, one.shard, one.key, one.key or one.offset): one for one in problems}.values())


def opened(cfg: Any, storage: Any) -> tuple[Any, list[Any]]:
    """The collection, or what is wrong with shards that hold not a single sample."""
    from omegaconf import OmegaConf

    from diffusion_train.data.collection import open_shards
    from diffusion_train.data.problem import DataError

    settings: Any = OmegaConf.to_container(cfg.data, resolve=True)
    try:
        return open_shards(settings["shards"], storage), []
    except DataError as error:
        if not error.problems or UNUSABLE & {problem.rule for problem in error.problems}:
            raise
        return None, list(error.problems)


def findings(cfg: Any, collection: Any, storage: Any, captions: Any, view: Any) -> Iterator[Any]:
    from diffusion_train.data.check.contents import of_contents
    from diffusion_train.data.check.tables import of_samples

    allowed = None if cfg.data.allowed_licenses is None else list(cfg.data.allowed_licenses)
    yield from of_samples(collection, captions, cfg.data.image_size, cfg.max_aspect, allowed)
    yield from of_contents(collection, captions, view, storage)


def table(found: list[Any]) -> list[str]:
    """A line a rule: how many there are, and the first."""
    from diffusion_train.utils.text import shown

    first = {problem.rule: problem for problem in reversed(found)}
    counts = Counter(problem.rule for problem in found)
    return [f"{count:>8,}  {rule:<20}  {shown(str(first[rule]), 160)}" for rule, count in counts.most_common()]
