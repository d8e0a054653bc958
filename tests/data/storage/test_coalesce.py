from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from diffusion_train.data.storage.base import Range
from diffusion_train.data.storage.coalesce import coalesce, separate

OBJECTS = {("u", "1"): bytes(range(200)), ("u", "2"): bytes(range(200))[::-1], ("v", "1"): bytes(200)}
RANGES = st.lists(
    st.builds(
        lambda at, offset, size: Range(*at, offset, min(size, 200 - offset)),
        st.sampled_from(list(OBJECTS)),
        st.integers(0, 199),
        st.integers(0, 60),
    )
)


@given(RANGES, st.integers(0, 30), st.integers(1, 100))
def test_any_ranges_come_back_in_order(ranges, gap, largest):
    spans = coalesce(ranges, gap, largest)
    bodies = [OBJECTS[span.url, span.version][span.start : span.end] for span in spans]
    wanted = [OBJECTS[r.url, r.version][r.offset : r.offset + r.size] for r in ranges]
    assert separate(ranges, spans, bodies) == wanted


@given(RANGES, st.integers(0, 30), st.integers(1, 100))
def test_a_request_is_as_long_as_its_ranges_and_the_gaps_allow(ranges, gap, largest):
    spans = coalesce(ranges, gap, largest)
    for span in spans:
        inside = sorted(ranges[position] for position in span.positions)
        assert span.size <= max(largest, *(r.size for r in inside))
        ends = [max(r.offset + r.size for r in inside[: n + 1]) for n in range(len(inside))]
        assert all(after.offset - end <= gap for end, after in zip(ends, inside[1:], strict=False))
    for one, other in itertools.pairwise(spans):
        if (one.url, one.version) == (other.url, other.version):
            last = max(ranges[position].offset + ranges[position].size for position in other.positions)
            assert other.start > one.end + gap or last - one.start > largest or other.size + one.size > largest


def test_neighbours_share_a_request():
    ranges = [Range("u", "1", 100, 10), Range("u", "1", 0, 10), Range("u", "1", 15, 10), Range("v", "1", 26, 10)]
    spans = coalesce(ranges, gap=5, largest=1000)
    assert [(span.url, span.start, span.end) for span in spans] == [("u", 0, 25), ("u", 100, 110), ("v", 26, 36)]
