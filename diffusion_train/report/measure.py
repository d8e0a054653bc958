"""Figures of a report: closeness to the brand, drift from the base, nearness to training images."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, interpolate

from diffusion_train.metric.copying import (
    Audit,
    Nearest,
    audit,
    chance,
    cosine_distance,
    nearest,
    references_needed,
    relative,
    without_itself,
)
from diffusion_train.metric.kid import Estimate, estimate, mmd
from diffusion_train.metric.near_duplicates import MAX_COLOUR_DIFFERENCE, MAX_DISTANCE, distances, groups
from diffusion_train.metric.palette import Palette, palette
from diffusion_train.metric.palette import distance as palette_distance
from diffusion_train.report.facts import Change, Closeness, CopyingFacts, Drift, Swatch
from diffusion_train.report.material import Seen

# The least differences that count, by measure: a bit of 63, and 1 - cosine of features and of small pictures.
RESOLUTION = {"hash": 1.0, "features": 0.01, "thumbnail": 0.01}
_THUMBNAIL = 16  # pixels a side


class Copying(NamedTuple):
    """Training images, one of each group of near-duplicates, and how near to them unseen images are."""

    train: Seen
    indices: list[int]  # indices of `train` among all training images
    references: dict[str, Tensor]  # by measure: relative distance (n,) of images not trained on to their nearest
    num_held_out: int  # references that are held-out images; the rest are training images, each against the others
    num_leaked: int  # held-out images that are near-duplicates of training images

    def check(self, samples: Seen, false_alarm: float) -> tuple[Audit, dict[str, Nearest]]:
        """Return the audit of samples, and by measure their nearest training images as rows of `train`."""
        near = {name: relative(table, RESOLUTION[name]) for name, table in tables(samples, self.train).items()}
        return audit({name: one.distance for name, one in near.items()}, self.references, false_alarm), near


def calibrate(train: Seen, held_out: Seen, false_alarm: float) -> Copying:
    """Return the calibration by held-out images; if they are too few for the rate, by training images as well.

    Each training image is then compared with the others. Held-out images that are near-duplicates of training images
    are left out, because they show nothing about unseen images.
    """
    indices = _one_of_each(train)
    single, fresh = train.rows(indices), _fresh(held_out, train)
    apart = tables(held_out, single)
    references = {name: relative(table, RESOLUTION[name]).distance[fresh] for name, table in apart.items()}
    num_held_out = int(fresh.sum())
    if num_held_out < references_needed(false_alarm, len(RESOLUTION)) and len(indices) > 2:
        for name, table in tables(single, single).items():
            others = relative(without_itself(table), RESOLUTION[name]).distance
            references[name] = torch.cat([references[name], others])
    return Copying(single, indices, references, num_held_out, int((~fresh).sum()))


def tables(rows: Seen, others: Seen) -> dict[str, Tensor]:
    """Return the distances (N, M) by measure."""
    bits, _ = distances(rows.signatures, others.signatures)
    return {
        "hash": torch.from_numpy(bits).double(),
        "features": cosine_distance(rows.features, others.features),
        "thumbnail": cosine_distance(_thumbnails(rows), _thumbnails(others)),
    }


def _thumbnails(images: Seen) -> Tensor:
    """Return the small pictures (N, D), each less its mean, so that brightness as a whole does not count."""
    small = [interpolate(part, size=(_THUMBNAIL, _THUMBNAIL), mode="area").flatten(1) for part in images.chunks()]
    return torch.cat(small) - torch.cat(small).mean(1, keepdim=True)


def colours(images: Seen) -> Palette:
    return palette(*images.chunks())


def likeness(images: Seen, brand: Seen) -> Tensor:
    """Return the cosine (N,) of each image to its nearest image of the brand."""
    return 1 - nearest(cosine_distance(images.features, brand.features)).distance


def kid(images: Seen, brand: Seen, num_samples: int = 1) -> Estimate:
    """Return the distance of samples, `num_samples` of each prompt one after the other, or of images to the brand's."""
    return estimate(images.features, brand.features, num_samples)


def fidelity(images: Seen, brand: Seen, num_samples: int = 1) -> Closeness:
    distance = kid(images, brand, num_samples)
    return Closeness(
        kid=distance.value,
        kid_error=distance.error,
        likeness=float(likeness(images, brand).mean()),
        colours=float(palette_distance(colours(images), colours(brand))),
    )


def kid_change(before: Seen, after: Seen, brand: Seen, num_samples: int) -> Change:
    """Return the change of KID from `before` to `after`: the same prompts in order, `num_samples` seeds of each."""
    change = kid(after, brand, num_samples) - kid(before, brand, num_samples)
    return Change(change.value, change.error)


def floor(train: Seen, brand: Seen, num_samples: int) -> Closeness:
    """Return the closeness of real images: of `num_samples` training images, spread evenly."""
    count = min(num_samples, len(train))
    return fidelity(train.rows([index * len(train) // count for index in range(count)]), brand)


def gap_closed(before: float, after: float, at_floor: float) -> float | None:
    """Return the fraction of the way from the base to real images, all low where good; None if there is no gap."""
    gap = before - at_floor
    return (before - after) / gap if gap > 1e-6 else None


def drift(before: Seen, after: Seen, num_samples: int) -> Drift:
    """Return the change from `before` to `after`: the same prompts in order, `num_samples` seeds of each."""
    indices = torch.arange(len(before)).reshape(-1, num_samples)
    neighbours = (before.rows(part.flatten()) for part in (indices[:, :-1], indices[:, 1:]))
    return Drift(
        changed=change(before, after),
        seeds=change(*neighbours) if num_samples > 1 else None,
        kid=float(mmd(before.features, after.features)) if len(before) > 1 else None,
        colours=float(palette_distance(colours(before), colours(after))),
    )


def change(before: Seen, after: Seen) -> float:
    """Return the mean 1 - cosine of samples of the same prompts and seeds."""
    return float((1 - cosine_similarity(before.features.double(), after.features.double())).clamp_min(0).mean())


def copying_facts(copying: Copying, audited: Audit, asked: float) -> CopyingFacts:
    flagged, total = int(audited.flagged.sum()), len(audited.flagged)
    return CopyingFacts(
        samples=total,
        flagged=flagged,
        asked_false_alarm=asked,
        false_alarm=audited.false_alarm,
        expected=audited.false_alarm * total,
        chance=chance(flagged, total, min(audited.false_alarm, 1.0)),
        thresholds={name: value for name, value in audited.thresholds.items() if value < float("inf")},
        references=audited.num_references,
        held_out=copying.num_held_out,
        leaked=copying.num_leaked,
        train=len(copying.train),
        measures=list(RESOLUTION),
    )


def swatches(dominant: Palette) -> list[Swatch]:
    return [
        Swatch(lab=[round(value, 2) for value in colour], fraction=round(fraction, 4))
        for colour, fraction in zip(dominant.colours.tolist(), dominant.fractions.tolist(), strict=True)
    ]


def _fresh(rows: Seen, train: Seen) -> Tensor:
    """Return (N,) whether each row is no near-duplicate of a training image."""
    bits, colours = distances(rows.signatures, train.signatures)
    same = (bits <= MAX_DISTANCE) & (colours <= MAX_COLOUR_DIFFERENCE)
    return torch.from_numpy(~same.any(1))


def _one_of_each(train: Seen) -> list[int]:
    """Return the indices of the first image of each group of near-duplicates; of all if that leaves only one."""
    further = {int(index) for group in groups(np.asarray(train.signatures)) for index in group[1:]}
    single = [index for index in range(len(train)) if index not in further]
    return single if len(single) > 1 else [*range(len(train))]
