"""A page of what the trainer will really see: samples decoded, cropped and captioned as in training.

One file without scripts. Keys and captions are text of strangers: what does not print is made visible, all is escaped.
"""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape

import numpy as np

from diffusion_train.check.rules import RULES, by_rule
from diffusion_train.check.samples import Samples
from diffusion_train.data.image.collate import to_levels
from diffusion_train.data.image.decode import IMAGE_EXTENSIONS
from diffusion_train.data.image.header import image_header
from diffusion_train.data.image.transform import AlignedError
from diffusion_train.data.selection import Indices
from diffusion_train.data.shard.catalog import Collection
from diffusion_train.data.shard.problem import Problem
from diffusion_train.picture import to_image
from diffusion_train.utils.redact import redact_url
from diffusion_train.utils.text import shown

_STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; } td, th { padding: .2rem 1rem .2rem 0; text-align: left; vertical-align: top; }
td:nth-child(3) { white-space: nowrap; } td.count { text-align: right; font-variant-numeric: tabular-nums; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: 1rem; margin: 1rem 0 2rem; }
figure { margin: 0; padding: .6rem; border: 1px solid #ddd; border-radius: 6px; overflow-wrap: anywhere; }
.pictures { display: flex; gap: .3rem; height: 10rem; }
.picture { flex: 1; min-width: 0; background: #eee; display: flex; align-items: center; justify-content: center; }
.picture img { width: 100%; height: 100%; object-fit: contain; } .picture p { margin: .6rem; color: #666; }
.small img { image-rendering: pixelated; }
figcaption { margin-top: .4rem; } small { color: #666; display: block; }
.tag { display: inline-block; border-radius: 3px; padding: 0 .4rem; background: #ddd; color: #222; margin: .2rem 0; }
tr.error td:first-child, small.error { color: #b00020; } tr.warning td:first-child, small.warning { color: #9a5b00; }
tr.note td:first-child, small.note { color: #41607a; } td:last-child { overflow-wrap: anywhere; color: #666; }
figure.error { border-color: #b00020; } figure.warning { border-color: #d08a20; } figure.note { border-color: #8aa5bb; }
"""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_SMALL = 176  # pixels; what is narrower is enlarged pixel by pixel


def contact_sheet(
    samples: Samples,
    found: Sequence[Problem],
    train: Indices,
    held_out: Indices,
    twins: Mapping[int, int],
    num_shown: int,
) -> str:
    """`num_shown` samples spread over those trained on, as many of those with findings, and some that are held out.

    `twins`: sample -> another one that it looks like, shown beside it.
    """
    collection = samples.collection
    faulty = with_findings(collection, found, num_shown)
    cards = _Cards(samples, train, held_out, faulty, twins)
    counts = f"{len(train):,} trained on, {len(held_out):,} held out"
    left = len(collection) - len(train) - len(held_out)
    parts = [
        f"<h1>{len(collection):,} sample(s) in {len(collection.urls):,} shard(s)</h1>",
        f"<p>{counts}{f', {left:,} neither' if left else ''}, as data.* say. Images are what training gets, in its first epoch.</p>",
        _rules(found),
        cards.section("Samples with findings", list(faulty)),
        cards.section("Trained on", _spread(train, num_shown)),
        cards.section("Held out", _spread(held_out, -(-num_shown // 4))),
    ]
    policy = f'<meta http-equiv="Content-Security-Policy" content="{escape(_POLICY)}">'
    head = f'<meta charset="utf-8">{policy}<title>Contact sheet</title><style>{_STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>'


def with_findings(collection: Collection, found: Sequence[Problem], at_most: int) -> dict[int, list[Problem]]:
    """Sample -> its problems: the first ones of each rule come first."""
    turns: Counter[str] = Counter()
    order = []
    for number, problem in enumerate(found):
        if problem.key is not None:
            order.append((turns[problem.rule], number, (problem.shard, problem.key)))
            turns[problem.rule] += 1
    chosen = list(dict.fromkeys(name for _, _, name in sorted(order)))[:at_most]
    problems: dict[tuple[str, str | None], list[Problem]] = {name: [] for name in chosen}
    for problem in found:
        if (problem.shard, problem.key) in problems:
            problems[problem.shard, problem.key].append(problem)
    return {sample: problems[name] for name in chosen for sample in _samples_of(collection, *name)}


def _samples_of(collection: Collection, shard: str, key: str) -> Iterator[int]:
    for sample in np.flatnonzero(collection.arrays["hashes"] == np.uint64(collection.hash(key))).tolist():
        if redact_url(collection.urls[collection.shard(sample)]) == shard:
            yield sample


def _spread(samples: Indices, count: int) -> list[int]:
    count = min(count, len(samples))
    return [int(samples[place * len(samples) // count]) for place in range(count)]


def _rules(found: Sequence[Problem]) -> str:
    rows = [
        f'<tr class="{RULES[rule].severity}"><td>{RULES[rule].severity}</td><td class="count">{len(problems):,}</td>'
        f"<td>{escape(rule)}</td><td>{escape(RULES[rule].remedy)}</td><td>{_first(problems[0])}</td></tr>"
        for rule, problems in by_rule(found).items()
    ]
    head = "<tr><th></th><th>found</th><th>rule</th><th>what to do</th><th>the first</th></tr>"
    return f"<table>{head}{''.join(rows)}</table>" if rows else "<p>Nothing was found.</p>"


def _first(problem: Problem) -> str:
    where = problem.key or problem.shard.rsplit("/", 1)[-1]
    return escape(shown(f"{where}: {problem.detail}" if where else problem.detail, 120))


class _Cards:
    """The cards of samples, by their numbers."""

    def __init__(
        self,
        samples: Samples,
        train: Indices,
        held_out: Indices,
        found: Mapping[int, list[Problem]],
        twins: Mapping[int, int],
    ) -> None:
        self.samples, self.train, self.held_out, self.found, self.twins = samples, train, held_out, found, twins

    def section(self, title: str, numbers: Sequence[int]) -> str:
        if not numbers:
            return ""
        cards = "".join(map(self._card, numbers))
        return f'<h2>{title} ({len(numbers):,} shown)</h2><div class="grid">{cards}</div>'

    def _card(self, sample: int) -> str:
        collection, problems = self.samples.collection, self.found.get(sample, [])
        picture, caption, size = self._seen(sample)
        shard = redact_url(collection.urls[collection.shard(sample)]).rsplit("/", 1)[-1]
        text = escape(shown(caption, 300)) or "<em>no caption</em>"
        place = (
            f"<small><code>{escape(shown(collection.key(sample), 100))}</code> in {escape(shown(shard, 60))}</small>"
        )
        rules = "".join(
            f'<small class="{RULES[one.rule].severity}">{escape(one.rule)}: {escape(shown(one.detail, 200))}</small>'
            for one in problems
        )
        frame = f' class="{RULES[problems[0].rule].severity}"' if problems else ""
        under = f"<figcaption>{text}{self._tag(sample)}{place}<small>{size}</small>{rules}</figcaption>"
        twin = self._seen(self.twins[sample])[0] if problems and sample in self.twins else ""
        return f'<figure{frame}><div class="pictures">{picture}{twin}</div>{under}</figure>'

    def _tag(self, sample: int) -> str:
        if sample in self.train:
            return ""
        return f' <span class="tag">{"held out" if sample in self.held_out else "not trained on"}</span>'

    def _seen(self, sample: int) -> tuple[str, str, str]:
        """(picture, caption, sizes) of a sample in epoch 0."""
        samples, key = self.samples, self.samples.collection.key(sample)
        [members] = samples.read([sample])
        data = {name: member.data for name, member in members.items() if member.data is not None}
        texts: Iterable[str] = []
        try:
            caption, texts = samples.captions(data, key, 0, sample), samples.captions.said(data, key)
        except ValueError as error:
            caption = f"({error})"
        view = samples.view.without_augmentation() if sample in self.held_out else samples.view
        try:
            image = next(data[name] for name in IMAGE_EXTENSIONS if name in data)
            header = image_header(image)
            draw = samples.draw(sample, header.width, header.height)
            made = view.made(view.decode(image, draw), draw, texts, metadata=data.get("json"))
        except (ValueError, AlignedError, StopIteration) as error:
            return f'<div class="picture"><p>{escape(shown(str(error) or "no image", 200))}</p></div>', caption, ""
        height, width = made["x"].shape[1:]
        out = io.BytesIO()
        to_image(to_levels(made)["x"]).save(out, "PNG")
        source = f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"
        kind = "picture small" if width < _SMALL else "picture"
        return (
            f'<div class="{kind}"><img alt="{escape(shown(key, 100))}" src="{source}"></div>',
            caption,
            f"{header.width} x {header.height} → {width} x {height}",
        )
