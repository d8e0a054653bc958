"""Ranges of a batch -> few requests, and their answers -> the bytes of each range."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from diffusion_train.data.storage.base import Range


@dataclass
class Span:
    """Bytes asked for at once: `start` up to `end` of one object, for the ranges numbered `places`."""

    url: str
    version: str
    start: int
    end: int
    places: list[int] = field(default_factory=list)

    @property
    def size(self) -> int:
        return self.end - self.start


def coalesce(ranges: Sequence[Range], gap: int, largest: int) -> list[Span]:
    """Neighbours of one object with at most `gap` bytes between them are joined, up to `largest` bytes."""
    spans: list[Span] = []
    for place in sorted((place for place, wanted in enumerate(ranges) if wanted.size), key=ranges.__getitem__):
        url, version, offset, size = ranges[place]
        last = spans[-1] if spans else Span("", "", 0, 0)
        end = max(last.end, offset + size)
        near = (last.url, last.version) == (url, version) and offset <= last.end + gap
        if not near or (end > last.end and end - last.start > largest):
            last, end = Span(url, version, offset, offset), offset + size
            spans.append(last)
        last.end = end
        last.places.append(place)
    return spans


def separate(ranges: Sequence[Range], spans: Sequence[Span], bodies: Sequence[bytes | bytearray]) -> list[bytes]:
    """What `coalesce` joined: the bytes of every range, in order."""
    parts = [b""] * len(ranges)
    for span, body in zip(spans, bodies, strict=True):
        assert len(body) == span.size
        view = memoryview(body)
        for place in span.places:
            start = ranges[place].offset - span.start
            parts[place] = bytes(view[start : start + ranges[place].size])
    return parts
