"""A page that shows samples as training sees them: decoded, cropped and with their captions.

The page is one file without scripts. Keys and captions are untrusted text.
"""

from __future__ import annotations

import base64
import io
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest

import numpy as np
from markupsafe import Markup
from PIL import Image

from diffusion_train.check.rules import RULES, by_rule
from diffusion_train.check.samples import Samples, small_members
from diffusion_train.data.image.collate import to_levels
from diffusion_train.data.image.decode import IMAGE_EXTENSIONS
from diffusion_train.data.image.read_header import image_header
from diffusion_train.data.image.transform import AlignedError
from diffusion_train.data.selection import Indices
from diffusion_train.data.shard.catalog import Catalog
from diffusion_train.data.shard.problem import Problem
from diffusion_train.page import page
from diffusion_train.picture import to_image


@dataclass(frozen=True)
class Seen:
    """A sample in epoch 0; `size` is that of the stored image, as text. If there is no image, `fault` says why."""

    key: str
    caption: str
    image: Image.Image | None = None
    size: str = ""
    fault: str = ""

    @property
    def address(self) -> Markup:
        """The image as a data: URL of a PNG."""
        out = io.BytesIO()
        assert self.image
        self.image.save(out, "PNG")
        return Markup(f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}")


@dataclass(frozen=True)
class Card:
    """A sample on the page; `twin` is a near-duplicate of it, shown beside it."""

    seen: Seen
    shard: str
    state: str
    problems: Sequence[Problem]
    twin: Seen | None


def contact_sheet(
    samples: Samples,
    findings: Sequence[Problem],
    train: Indices,
    held_out: Indices,
    twins: Mapping[int, int],
    num_shown: int,
) -> str:
    """Return the HTML of up to `num_shown` training samples, as many with findings, and a quarter as many held out.

    `twins` maps a sample to the one that it looks like.
    """
    catalog = samples.catalog
    faulty = with_findings(catalog, findings, num_shown)
    seen = partial(_seen, samples, held_out)

    def card(sample: int) -> Card:
        shard = catalog.printable_shard(sample).rsplit("/", 1)[-1]
        state = "" if sample in train else "held out" if sample in held_out else "not trained on"
        problems = faulty.get(sample, [])
        return Card(seen(sample), shard, state, problems, seen(twins[sample]) if problems and sample in twins else None)

    sections = {
        "Samples with findings": faulty,
        "Trained on": _spread(train, num_shown),
        "Held out": _spread(held_out, -(-num_shown // 4)),
    }
    return page(
        "diffusion_train.check",
        "contact_sheet.html",
        rules=RULES,
        found=by_rule(findings),
        num_samples=len(catalog),
        num_shards=len(catalog.urls),
        num_trained=len(train),
        num_held_out=len(held_out),
        num_others=len(catalog) - len(train) - len(held_out),
        sections={title: list(map(card, shown)) for title, shown in sections.items()},
    )


def with_findings(catalog: Catalog, findings: Sequence[Problem], at_most: int) -> dict[int, list[Problem]]:
    """Return sample -> problems for at most `at_most` samples: the first of each rule, then the second, and so on."""
    of_samples = [problem for problem in findings if problem.key is not None]
    problems: dict[tuple[str, str], list[Problem]] = defaultdict(list)
    for problem in of_samples:
        problems[problem.shard, str(problem.key)].append(problem)
    turns = zip_longest(*by_rule(of_samples).values())
    names = dict.fromkeys((problem.shard, str(problem.key)) for turn in turns for problem in turn if problem)
    chosen = list(names)[:at_most]
    return {sample: problems[name] for name in chosen for sample in _samples_of(catalog, *name)}


def _samples_of(catalog: Catalog, shard: str, key: str) -> Iterator[int]:
    for sample in np.flatnonzero(catalog.arrays["hashes"] == np.uint64(catalog.hash(key))).tolist():
        if catalog.printable_shard(sample) == shard:
            yield sample


def _spread(samples: Indices, count: int) -> list[int]:
    count = min(count, len(samples))
    return [int(samples[number * len(samples) // count]) for number in range(count)]


def _seen(samples: Samples, held_out: Indices, sample: int) -> Seen:
    key = samples.catalog.key(sample)
    [members] = samples.read([sample])
    data = small_members(members)
    texts: Iterable[str] = []
    try:
        caption, texts = samples.captions(data, key, 0, sample), samples.captions.said(data, key)
    except ValueError as error:
        caption = f"({error})"
    preprocess = samples.preprocess.without_augmentation() if sample in held_out else samples.preprocess
    try:
        image = next(data[name] for name in IMAGE_EXTENSIONS if name in data)
        header = image_header(image)
        draw = samples.draw(sample, header.width, header.height)
        made = preprocess.to_tensors(preprocess.decode(image, draw), draw, texts, metadata=data.get("json"))
    except (ValueError, AlignedError, StopIteration) as error:
        return Seen(key, caption, fault=str(error) or "no image")
    return Seen(key, caption, to_image(to_levels(made)["x"]), f"{header.width} x {header.height}")
