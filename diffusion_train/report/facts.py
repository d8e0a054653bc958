"""What a report holds. report.json is a `Report` as nested mappings, its keys in the order of the fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from diffusion_train.report.marks import Mark


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that report.html shows. The kinds of prompts are "brand", "learned" (training captions) and "general"."""

    format: int = 2
    name: str
    brand: str | None  # the brand's name; None if nobody gave it
    owner: str | None  # who is responsible for the brand
    base: str | None  # None for a run that started from nothing
    data: ImageCounts
    prompts: Mapping[str, PromptSource]  # by kind
    fidelity: Fidelity
    drift: Drift | None  # None without general samples of a base
    copying: Mapping[str, CopyingFacts]  # by kind; "base" is the control, whose model never saw the images
    coverage: WordCoverage
    samples: Sequence[Sample]
    brand_images: Sequence[BrandImage]
    sweep: Sweep | None  # None if there are fewer than two settings to compare
    rights: Sequence[Rights]
    made: str  # ISO 8601
    version: str
    weights: str  # SHA-256 of the file
    scale: float | None  # strength of the adapter in the samples; None without one
    step: int | None
    marks: Sequence[Mark] = ()


@dataclass(frozen=True)
class ImageCounts:
    """Numbers of training and held-out images; `_seen` counts those that the report compares with."""

    train: int
    train_seen: int
    held_out: int
    held_out_seen: int
    reference: str  # what closeness is measured against: "held-out images" or "training images"


@dataclass(frozen=True)
class PromptSource:
    """The number of prompts of one kind, and where they come from in words."""

    count: int
    origin: str


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """Closeness to the brand of the base's samples, the run's samples, and real images (`floor`)."""

    extractor: str
    samples: int
    base: Closeness | None
    run: Closeness
    floor: Closeness | None  # None without held-out images
    palettes: Mapping[str, Sequence[Swatch]]  # of "brand", "base" and "run"
    change: Change | None = None  # of KID from base to run; None without base
    changed: float | None = None  # mean 1 - cosine of features between the same samples of base and run
    gap_closed: GapClosed | None = None  # None without base or floor; report.json then has no such key


@dataclass(frozen=True)
class Closeness:
    """Closeness of images to the brand's: KID, mean cosine to the nearest image, and CIEDE2000 of the palettes."""

    kid: float
    kid_error: float | None  # half the width of the 95 % interval; None if there are too few images to tell
    likeness: float
    colours: float


@dataclass(frozen=True)
class Change:
    """A change of KID, and half the width of its 95 % interval; None if there are too few images to tell."""

    value: float
    error: float | None

    @property
    def direction(self) -> str:
        """ "closer" or "further" if the interval says so, else "same"."""
        if self.error is None or abs(self.value) <= self.error:
            return "same"
        return "closer" if self.value < 0 else "further"


@dataclass(frozen=True)
class GapClosed:
    """Fraction of the way from the base to real images; None if the base is as close as they are."""

    kid: float | None
    colours: float | None


@dataclass(frozen=True)
class Swatch:
    """One colour of a palette (CIELAB) and the fraction of the pixels that have it."""

    lab: Sequence[float]
    fraction: float


@dataclass(frozen=True)
class Drift:
    """Change of general samples from the base's: mean 1 - cosine of features, KID, CIEDE2000 of the palettes."""

    changed: float
    seeds: float | None  # the mean change between two seeds of the base; None with one seed a prompt
    kid: float | None
    colours: float


@dataclass(frozen=True)
class CopyingFacts:
    """Number of samples that are flagged as copies, and the calibration of the flags."""

    samples: int
    flagged: int
    asked_false_alarm: float
    false_alarm: float  # the rate that holds: more than was asked for if there are too few references
    expected: float  # flags by chance
    chance: float  # the probability of so many flags or more by chance
    thresholds: Mapping[str, float]  # relative distance by measure, without those that flag nothing
    references: int
    held_out: int  # references that are held-out images
    leaked: int  # held-out images that are near-duplicates of training images
    train: int  # training images compared with, one of each group of near-duplicates
    measures: Sequence[str]


@dataclass(frozen=True)
class WordCoverage:
    """How well the training captions cover the words of the brand prompts."""

    captions: int
    bands: Sequence[Band]
    thin: Sequence[ThinWord]  # the first of `num_thin`
    num_thin: int
    common: Sequence[str]  # words that more than half of the captions hold, which do not count


@dataclass(frozen=True)
class Band:
    """Brand prompts whose rarest word is in so many captions, such as "3 to 9", and their samples."""

    band: str
    prompts: int
    samples: int
    likeness: float
    flagged: int


@dataclass(frozen=True)
class ThinWord:
    """A word of a prompt that fewer than 3 captions hold."""

    word: str
    captions: int


@dataclass(frozen=True)
class Sample:
    """One prompt and seed as the base (`before`) and the run (`image`) draw it; all three are names of pictures."""

    set: str  # the kind of prompt
    prompt: str
    seed: int
    before: str | None
    image: str
    own: str | None  # the brand's own image with this caption; None if it has none
    likeness: float
    copying: SampleCopying


@dataclass(frozen=True)
class BrandImage:
    """A picture of the brand itself; `image` is its name."""

    image: str
    caption: str


@dataclass(frozen=True)
class SampleCopying:
    """P value of the sample as an image that was not trained on, and the nearest training image by each measure."""

    p: float
    flagged: bool
    hash: NearestImage
    features: NearestImage
    thumbnail: NearestImage


@dataclass(frozen=True)
class NearestImage:
    """A training image; `relative` is its distance as a fraction of the second nearest image's."""

    relative: float
    near: bool  # below the threshold
    image: str
    key: str
    caption: str


@dataclass(frozen=True)
class Sweep:
    """Strengths and checkpoints of the run, and the figures by which they are compared."""

    rows: Sequence[SweepRow]
    goals: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class SweepRow:
    """Figures of one strength (`axis` "scale") or checkpoint ("step")."""

    axis: str
    value: float
    name: str
    kid: float
    kid_error: float | None
    likeness: float
    colours: float
    drift: float | None
    flagged: int
    samples: int
    chance: float
    undominated: bool = False
    chosen: bool = False


@dataclass(frozen=True)
class Rights:
    """Licences and sources, with the number of their images, of what a run or model was trained on."""

    role: str
    images: int | None
    licenses: Sequence[LicenseCount]
    sources: Mapping[str, int | None]
    fingerprint: str | None = None  # None if no licences are on record; report.json then has no such key


@dataclass(frozen=True)
class LicenseCount:
    """A licence, the number of images under it, and the terms that it asks for."""

    name: str
    images: int | None
    terms: Sequence[str]
