"""Make the order of the samples of a data set from its settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffusion_train.data.order.buckets import Buckets
from diffusion_train.data.order.continuation import NEVER, NEW, Remainder
from diffusion_train.data.order.mixture import Mix, repeats_of
from diffusion_train.data.order.order import I64, Draws, Order, Shape, Subset, grouped
from diffusion_train.data.order.resolution import AspectRatios, nearest


class OrderSpec:
    """Settings of an order: an `Order`, a `Mix` of several sources, or `Buckets` of either.

    `order` makes an `Order` from fingerprint and size. `repeats` or `weights` set by name how often sources are drawn.
    `ratios` are those of the buckets, whose shapes have the area of a square of `image_size`.
    """

    def __init__(
        self,
        order: Callable[..., Order],
        repeats: Mapping[str, float] | None = None,
        weights: Mapping[str, float] | None = None,
        ratios: AspectRatios | None = None,
        image_size: int = 1,
    ) -> None:
        self.order, self.repeats, self.weights = order, repeats, weights
        self.ratios, self.image_size = ratios or AspectRatios(), image_size
        self.shapes = self.ratios.shapes(image_size)

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> OrderSpec:
        """Return the order spec with these `settings`."""
        buckets = dict(settings["buckets"])
        size = buckets.pop("image_size", 1)
        return cls(
            partial(Order, **settings["order"]), **settings["mix"], ratios=AspectRatios(**buckets), image_size=size
        )

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        """Plain data: everything that determines the order, besides the data set."""
        mix = {"repeats": self.repeats, "weights": self.weights}
        buckets = {**vars(self.ratios), "image_size": self.image_size} if len(self.shapes) > 1 else {}
        given = {name: dict(values) for name, values in mix.items() if values}
        return {"order": self.order(fingerprint="", num_samples=1).settings, "mix": given, "buckets": buckets}

    @property
    def description(self) -> str:
        """The `settings` without the seed, as text."""
        parts = [
            ", ".join(f"{name}={value}" for name, value in part.items() if name != "seed")
            for part in self.settings.values()
        ]
        return "; ".join(filter(None, parts))

    def __call__(
        self,
        fingerprint: str,
        sources: Mapping[str, int],
        sizes: NDArray[np.int64] | None = None,
        newest: I64 | None = None,
    ) -> Draws | Buckets:
        """Return the order of a data set. `sources` are numbers of samples, `sizes` (n, 2) image widths and heights.

        `newest` (n,), from `carry_over`, puts the rest of the current passes first. Empty buckets are left out.
        """
        leaf = _Leaf(self.order, fingerprint, newest)
        repeats = repeats_of(sources, self.repeats, self.weights)
        ends = list(pairwise(accumulate(sources.values(), initial=0)))
        names = [(str(number),) for number in range(len(ends))] if len(ends) > 1 else [()]
        if len(self.shapes) == 1:
            return _mix([leaf(range(*end), *name) for end, name in zip(ends, names, strict=True)], repeats)
        buckets = []
        for shape, members in self.sorted(sizes):
            parts = [members[slice(*np.searchsorted(members, end))] for end in ends]
            held = [source for source, part in enumerate(parts) if len(part)]
            draws = [leaf(parts[source], *names[source], str(shape)) for source in held]
            buckets.append((shape, _mix(draws, [repeats[source] for source in held])))
        return Buckets(buckets)

    def sorted(self, sizes: NDArray[np.int64] | None) -> Iterator[tuple[Shape, I64]]:
        """Yield shape and samples (m,) of each bucket that is not empty.

        Raises ValueError if image sizes are unknown.
        """
        if sizes is None:
            raise ValueError("data.buckets.max_ratio: must be 1, because this data set has no images of known sizes")
        for number, members in grouped(nearest(sizes[:, 0], sizes[:, 1], self.shapes)):
            yield self.shapes[number], members


def _mix(draws: Sequence[Draws], repeats: Sequence[Fraction]) -> Draws:
    return draws[0] if len(draws) == 1 and repeats[0] == 1 else Mix(draws, repeats)


@dataclass(frozen=True)
class _Leaf:
    """Makes the sequence of some samples, keyed by the fingerprint and the `names` of their group."""

    order: Callable[..., Order]
    fingerprint: str
    newest: I64 | None

    def __call__(self, samples: I64 | range, *names: str) -> Draws:
        every_pass = self._subset(samples, *names)
        if self.newest is None:
            return every_pass
        numbers = np.asarray(samples)
        newest = self.newest[numbers]
        old = newest[newest != NEW]
        first, last = (int(old.min()), int(old.max())) if len(old) else (NEVER, NEVER)
        begun = range(first + 1, last + 1)  # several, if the lanes have not advanced equally
        parts = [(epoch, self._subset(numbers[newest < epoch], *names)) for epoch in begun]
        return Remainder(every_pass, parts, last + 1)

    def _subset(self, samples: I64 | range, *names: str) -> Draws:
        order = self.order(fingerprint=" ".join([self.fingerprint, *names]), num_samples=len(samples))
        everything = isinstance(samples, range) and samples.start == 0
        return order if everything else Subset(order, samples)
