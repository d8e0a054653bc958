"""Select the samples of a catalog to train on and to hold out; the others are left out for a reason."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from diffusion_train.data.caption.captions import Captions
from diffusion_train.data.image.decode import IMAGE_EXTENSIONS, MAX_PIXELS, is_image_name
from diffusion_train.data.shard.catalog import Catalog
from diffusion_train.data.shard.index import Traits
from diffusion_train.data.shard.problem import DataError, Problem
from diffusion_train.rights.license import decide, mistyped
from diffusion_train.utils.text import printable

log = logging.getLogger(__name__)

UNUSED_IMAGE = "an image that no sample uses, because its name has further dots or it has an unsupported format"
_SHOWN = 3  # names in a message

Faults = Literal["strict", "tolerant"]
Indices = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Chosen:
    """The selected samples: `train` in the order of the catalog, `held_out` in the order of their hashes."""

    train: Indices
    held_out: Indices
    problems: Sequence[Problem] = ()
    left_out: Counter[str] = field(default_factory=Counter)


class Selection:
    """Rules of selection. `holdout` is a number of samples or a fraction below 1, which are chosen by hash of the key.

    `faults`: "strict" raises DataError with every faulty shard and sample, "tolerant" leaves them out. Images with a
    side below `min_side` pixels, or with one side more than `max_aspect` times the other, are left out, and samples
    whose licence is not in `allowed_licenses`, if that is given. Raises ValueError for wrong settings.
    """

    def __init__(
        self,
        holdout: float = 0,
        min_side: int = 1,
        max_aspect: float | None = None,
        allowed_licenses: Sequence[str] | None = None,
        faults: Faults = "strict",
    ) -> None:
        if holdout < 0 or (holdout >= 1 and holdout != int(holdout)):
            raise ValueError(f"data.holdout={holdout:g}: must be a fraction below 1 or a whole number of samples")
        if faults not in get_args(Faults):
            raise ValueError(f"data.faults={faults}: must be one of {', '.join(get_args(Faults))}")
        if max_aspect is not None and max_aspect < 1:
            raise ValueError(f"data.max_aspect={max_aspect:g}: must be at least 1, or null for any")
        self.holdout, self.min_side, self.max_aspect = holdout, min_side, max_aspect
        self.allowed_licenses = allowed_licenses
        self.faults = faults

    def choose(self, catalog: Catalog, captions: Captions, further_images: Collection[str] = ()) -> Chosen:
        """Select samples, and log what is left out. `further_images` are the members that data.images names.

        Raises DataError for faults ("strict") or if no sample is left.
        """
        whole, problems = self._whole(catalog, captions)
        kept, left_out = self.choose_whole(catalog, captions, whole)
        left_out["faulty"] = int((~whole).sum())
        usable = np.flatnonzero(kept)
        if not len(usable):
            reasons = ", ".join(f"{count} {reason}" for reason, count in (+left_out).items())
            raise DataError(f"data.shards: all {len(kept)} samples are left out ({reasons})")
        for reason, count in (+left_out).items():
            log.warning("%d of %d samples are left out: %s", count, len(kept), reason)
        if ignored := catalog.meta["num_ignored"]:
            log.warning("%d members of the shards are ignored: links, folders, hidden files", ignored)
        ignored_profiles = int((catalog.arrays["members"]["traits"] & Traits.PROFILE_IGNORED > 0).sum())
        if ignored_profiles:
            log.warning("%d images have an unusable colour profile, which is ignored", ignored_profiles)
        if unused := list(unused_images(catalog, further_images)):
            shown = ", ".join(printable(name) for _, name, _ in unused[:_SHOWN]) + ", ..." * (len(unused) > _SHOWN)
            log.warning("%d images are not trained on: %s (%s)", len(unused), shown, UNUSED_IMAGE)
            left_out[UNUSED_IMAGE] = len(unused)
        return Chosen(*self.split(catalog, usable), problems, +left_out)

    def _whole(self, catalog: Catalog, captions: Captions) -> tuple[Mask, list[Problem]]:
        found = sample_faults(catalog, captions)
        faulty = np.any([mask for _, _, mask in found], axis=0)
        problems = [*catalog.problems, *(one for fault in found for one in problems_of(catalog, *fault))]
        if problems and self.faults == "strict":
            raise strict_error(problems)
        if problems:
            log.warning("%d faults in the shards; bad_samples.jsonl of the run folder lists them", len(problems))
        return ~faulty, problems

    def choose_whole(self, catalog: Catalog, captions: Captions, whole: Mask) -> tuple[Mask, Counter[str]]:
        """Return a mask (n,) of the intact samples that are kept, and the number left out by reason."""
        kept, left_out = whole.copy(), Counter[str]()
        for _, reason, samples in self.unwanted(catalog, captions, whole):
            left_out[reason] += int(samples.sum())
            kept &= ~samples
        return kept, left_out

    def unwanted(self, catalog: Catalog, captions: Captions, whole: Mask) -> Iterator[tuple[str, str, Mask]]:
        """Yield (rule, reason, mask (n,)) for each reason to leave out intact samples; a sample counts for one only."""
        kept = whole.copy()
        for rule, reason, unwanted in self._reasons(catalog, captions):
            samples = kept & unwanted()
            yield rule, reason, samples
            kept &= ~samples

    def _reasons(self, catalog: Catalog, captions: Captions) -> Iterator[tuple[str, str, Callable[[], Mask]]]:
        width, height = sizes(catalog)
        short, long = np.minimum(width, height), np.maximum(width, height)
        if self.min_side > 1:
            yield "below-min-side", f"a side below data.min_side={self.min_side}", lambda: short < self.min_side
        if self.max_aspect is not None:
            limit = self.max_aspect
            reason = f"an aspect ratio above data.max_aspect={limit:g}"
            yield "above-max-aspect", reason, lambda: long > limit * short
        if captions.missing == "drop":
            reason = f"no {captions.source.name}"
            yield "without-caption", reason, lambda: without_caption(catalog, captions)
        if self.allowed_licenses is not None:
            reason = "a licence that is not in data.allowed_licenses"
            yield "license-not-allowed", reason, lambda: self._forbidden(catalog)

    def _forbidden(self, catalog: Catalog) -> Mask:
        names, index = catalog.licenses()
        for line in mistyped(self.allowed_licenses or (), names):
            log.warning("data.allowed_licenses: %s", line)
        allowed = np.array([decide(name, self.allowed_licenses or ()) for name in [*names, None]])
        return ~allowed[index]

    def split(self, catalog: Catalog, usable: Indices) -> tuple[Indices, Indices]:
        """Return (training samples, held-out samples). Raises ValueError if none would be left for training."""
        if self.holdout == 0:
            return usable, usable[:0]
        hashes = catalog.arrays["hashes"][usable]
        by_hash = np.argsort(hashes, kind="stable")
        count = int(self.holdout)
        if self.holdout < 1:
            count = int((hashes < np.uint64(int(self.holdout * 2**64))).sum())
        if count >= len(usable):
            raise ValueError(f"data.holdout={self.holdout:g} holds out all {len(usable)} samples; use a smaller value")
        return usable[np.sort(by_hash[count:])], usable[by_hash[:count]]


def strict_error(problems: Sequence[Problem]) -> DataError:
    """Return the error for faults that data.faults=strict refuses."""
    error = DataError.listing(problems)
    error.add_note("data.faults=tolerant trains on the intact samples and records the faults")
    return error


def sizes(catalog: Catalog) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return width (n,) and height (n,) of every sample's image in pixels; 0 if it is missing or cannot be read."""
    _, rows = catalog.first_rows(IMAGE_EXTENSIONS)
    members = catalog.arrays["members"]
    width, height = (np.where(rows >= 0, members[axis][rows].astype(np.int64), 0) for axis in ("width", "height"))
    return width, height


def without_caption(catalog: Catalog, captions: Captions) -> Mask:
    """Return a mask (n,) of the samples that lack a member for their caption."""
    lacking = np.zeros(len(catalog), bool)
    for extension in captions.extensions:
        lacking |= catalog.first_rows([extension])[0] == 0
    if not captions.source.extensions:
        lacking |= np.array([not captions.has(catalog.key(sample)) for sample in range(len(catalog))])
    return lacking


def sample_faults(catalog: Catalog, captions: Captions) -> list[tuple[str, str, Mask]]:
    """Return (rule, detail, mask (n,)) for samples without exactly one usable image, or without the needed caption."""
    images, _ = catalog.first_rows(IMAGE_EXTENSIONS)
    width, height = sizes(catalog)
    faults = [
        ("missing-image", f"no image ({', '.join(IMAGE_EXTENSIONS)})", images == 0),
        ("several-images", "more than one image", images > 1),
        ("undecodable-image", "the image cannot be decoded", (images == 1) & (width * height == 0)),
        (
            "huge-image",
            f"the image has more than {MAX_PIXELS} pixels",
            (images == 1) & (width * height > MAX_PIXELS),
        ),
    ]
    if captions.missing == "error":
        detail = (
            f"no {captions.source.name}; data.captions.missing=empty trains without one, drop leaves the sample out"
        )
        faults.append(("missing-caption", detail, without_caption(catalog, captions)))
    return faults


def unused_images(catalog: Catalog, further_images: Collection[str]) -> Iterator[tuple[int, str, int]]:
    """Yield (sample, name of the member, its offset) for each image that no sample uses.

    By WebDataset's rule shoe.v1.png and shoe.v2.png are members v1.png and v2.png of one sample, which reads neither.
    """
    read = {*IMAGE_EXTENSIONS, *further_images}
    names = catalog.meta["extensions"]
    unused = [number for number, name in enumerate(names) if name not in read and is_image_name(name)]
    members, starts = catalog.arrays["members"], catalog.arrays["starts"]
    for row in np.flatnonzero(np.isin(members["ext"], unused)).tolist() if unused else ():
        sample = int(np.searchsorted(starts, row, side="right")) - 1
        yield sample, f"{catalog.key(sample)}.{names[members['ext'][row]]}", int(members["offset"][row])


def problems_of(catalog: Catalog, rule: str, detail: str | Callable[[int], str], samples: Mask) -> Iterator[Problem]:
    """Yield a problem for each sample in the mask (n,); `detail` may be a function of the sample's number."""
    offsets, starts = catalog.arrays["members"]["offset"], catalog.arrays["starts"]
    for sample in np.flatnonzero(samples).tolist():
        text, offset = detail if isinstance(detail, str) else detail(sample), int(offsets[starts[sample]])
        yield Problem(rule, catalog.printable_shard(sample), text, catalog.key(sample), offset)


def per_source(catalog: Catalog, samples: Indices) -> dict[str, int]:
    """Return source -> number of these samples, which must be in ascending order."""
    ends = catalog.source_ends()
    counts = np.diff(np.searchsorted(samples, list(ends.values())), prepend=0)
    return dict(zip(ends, counts.tolist(), strict=True))
