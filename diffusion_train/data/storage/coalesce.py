"""Join the ranges of a batch into few spans, one request each, and separate their bytes again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from diffusion_train.data.storage.base import Range


@dataclass
class Span:
    """The bytes of one request: `start` up to `end` of one object, for the ranges at `positions` in a list."""

    url: str
    version: str
    start: int
    end: int
    positions: list[int] = field(default_factory=list)

    @property
    def size(self) -> int:
        return self.end - self.start


def coalesce(ranges: Sequence[Range], gap: int, largest: int) -> list[Span]:
    """Join ranges of one object with at most `gap` bytes between them, to spans of at most `largest` bytes."""
    spans: list[Span] = []
    for position in sorted((n for n, part in enumerate(ranges) if part.size), key=ranges.__getitem__):
        url, version, offset, size = ranges[position]
        last = spans[-1] if spans else Span("", "", 0, 0)
        end = max(last.end, offset + size)
        near = (last.url, last.version) == (url, version) and offset <= last.end + gap
        if not near or (end > last.end and end - last.start > largest):
            last, end = Span(url, version, offset, offset), offset + size
            spans.append(last)
        last.end = end
        last.positions.append(position)
    return spans


def separate(ranges: Sequence[Range], spans: Sequence[Span], bodies: Sequence[bytes]) -> list[bytes]:
    """Return the bytes of every range, in order, from the bodies of the spans of `coalesce`."""
    parts = [b""] * len(ranges)
    for span, body in zip(spans, bodies, strict=True):
        assert len(body) == span.size
        for position in span.positions:
            start = ranges[position].offset - span.start
            parts[position] = body[start : start + ranges[position].size]
    return parts
