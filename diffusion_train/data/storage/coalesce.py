"""Ranges of a batch -> few spans, one request each, and the bytes of the spans -> the bytes of each range."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from diffusion_train.data.storage.base import Range


@dataclass
class Span:
    """Bytes asked for at once: `start` up to `end` of one object, for the ranges at `positions` of a list."""

    url: str
    version: str
    start: int
    end: int
    positions: list[int] = field(default_factory=list)

    @property
    def size(self) -> int:
        return self.end - self.start


def coalesce(ranges: Sequence[Range], gap: int, largest: int) -> list[Span]:
    """Neighbours of one object with at most `gap` bytes between them are joined, up to `largest` bytes."""
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
    """What `coalesce` joined: the bytes of every range, in order."""
    parts = [b""] * len(ranges)
    for span, body in zip(spans, bodies, strict=True):
        assert len(body) == span.size
        for position in span.positions:
            start = ranges[position].offset - span.start
            parts[position] = body[start : start + ranges[position].size]
    return parts
