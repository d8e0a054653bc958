"""A page of what the trainer will really see: samples decoded, cropped and captioned as in training.

One file without scripts. Keys and captions are text of strangers: what does not print is made visible, all is escaped.
"""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

import numpy as np

from diffusion_train.data.caption.captions import Captions
from diffusion_train.data.collate import to_levels
from diffusion_train.data.collection import Collection
from diffusion_train.data.decode import IMAGE_EXTENSIONS
from diffusion_train.data.order import Draw
from diffusion_train.data.problem import Problem
from diffusion_train.data.storage.base import Storage
from diffusion_train.data.view import View
from diffusion_train.picture import to_image
from diffusion_train.utils.redact import redact_url
from diffusion_train.utils.text import shown

_STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; } td, th { padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: top; }
td:first-child { text-align: right; font-variant-numeric: tabular-nums; } code { overflow-wrap: anywhere; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: 1rem; margin: 1rem 0 2rem; }
figure { margin: 0; padding: .6rem; border: 1px solid #ddd; border-radius: 6px; overflow-wrap: anywhere; }
figure.found { border-color: #c60; } img { width: 100%; image-rendering: pixelated; background: #eee; }
figcaption small { color: #666; display: block; } .rule { color: #a40; }
"""


def contact_sheet(
    collection: Collection, captions: Captions, view: View, storage: Storage, found: Sequence[Problem], num_shown: int
) -> str:
    """`num_shown` samples spread over the data, and as many of those with findings."""
    spread = sorted({place * len(collection) // num_shown for place in range(num_shown)})
    faulty = with_findings(collection, found, num_shown)
    rules = Counter(problem.rule for problem in found)
    rows = "".join(f"<tr><td>{count:,}</td><td>{escape(rule)}</td></tr>" for rule, count in rules.most_common())

    def grid(samples: Sequence[int]) -> str:
        cards = (_card(collection, captions, view, storage, sample, faulty.get(sample, [])) for sample in samples)
        return f'<div class="grid">{"".join(cards)}</div>'

    parts = [
        f"<h1>{len(collection):,} samples in {len(collection.urls):,} shards</h1>",
        f"<table><tr><th>count</th><th>rule</th></tr>{rows}</table>" if rules else "<p>Nothing was found.</p>",
        f"<h2>Samples with findings ({len(faulty):,} shown)</h2>{grid(list(faulty))}" if faulty else "",
        f"<h2>Spread over the data, as they are trained on ({len(spread):,} shown)</h2>{grid(spread)}",
    ]
    head = f'<meta charset="utf-8"><title>Contact sheet</title><style>{_STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>'


def with_findings(collection: Collection, found: Sequence[Problem], at_most: int) -> dict[int, list[Problem]]:
    """Sample -> its problems: the first ones of each rule come first."""
    samples: dict[int, list[Problem]] = {}
    turns: Counter[str] = Counter()
    order = []
    for problem in found:
        order.append((turns[problem.rule], problem))
        turns[problem.rule] += 1
    for _, problem in sorted(order, key=lambda one: one[0]):
        for sample in _samples_of(collection, problem):
            if sample in samples or len(samples) < at_most:
                samples.setdefault(sample, []).append(problem)
    return samples


def _samples_of(collection: Collection, problem: Problem) -> Iterator[int]:
    if problem.key is None:
        return
    for sample in np.flatnonzero(collection.arrays["hashes"] == np.uint64(collection.hash(problem.key))).tolist():
        if redact_url(collection.urls[collection.shard(sample)]) == problem.shard:
            yield sample


def _card(
    collection: Collection, captions: Captions, view: View, storage: Storage, sample: int, found: Sequence[Problem]
) -> str:
    key = collection.key(sample)
    image, caption, size = _seen(collection, captions, view, storage, sample)
    rules = "".join(
        f'<small class="rule">{escape(one.rule)}: {escape(shown(one.detail, 200))}</small>' for one in found
    )
    name, text = escape(shown(key, 100)), escape(shown(caption, 300))
    caption_html = (
        f"<figcaption>{text or '<em>no caption</em>'}<small><code>{name}</code> {size}</small>{rules}</figcaption>"
    )
    return f"<figure{' class=found' if found else ''}>{image}{caption_html}</figure>"


def _seen(
    collection: Collection, captions: Captions, view: View, storage: Storage, sample: int
) -> tuple[str, str, str]:
    """(image element, caption, sizes) of a sample in epoch 0."""
    key, places = collection.key(sample), collection.members(sample)
    wanted = {*IMAGE_EXTENSIONS, *captions.extensions, "json"} & places.keys()
    data = dict(zip(sorted(wanted), storage.read([places[name][0] for name in sorted(wanted)]), strict=True))
    caption = ""
    try:
        caption = captions(data, key, 0, sample)
    except ValueError as error:
        caption = f"({error})"
    try:
        image = next(data[name] for name in sorted(data) if name in IMAGE_EXTENSIONS)
        made: dict[str, Any] = view(image, Draw(0, sample), caption, {}, data.get("json"))
    except (ValueError, StopIteration) as error:
        return f"<p>{escape(shown(str(error) or 'no image', 200))}</p>", caption, ""
    height, width = made["original_size"].tolist()
    out = io.BytesIO()
    to_image(to_levels(made)["x"]).save(out, "PNG")
    source = f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"
    seen = tuple(made["x"].shape[1:])
    return f'<img alt="" src="{source}">', caption, f"{width} x {height} → {seen[1]} x {seen[0]}"
