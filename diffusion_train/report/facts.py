"""What a report holds: `Report`, and as nested mappings in the order of the fields below, report.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from diffusion_train.report.marks import Mark


@dataclass(frozen=True)
class ImageCounts:
    """Images that were trained on and held out, and how many of them the report looks at."""

    train: int
    train_seen: int
    held_out: int
    held_out_seen: int
    reference: str  # what closeness is measured against: "held-out images" or "training images"


@dataclass(frozen=True)
class PromptSource:
    count: int
    origin: str


@dataclass(frozen=True)
class Closeness:
    """Distance of a set of images to the brand's: KID and CIEDE2000 are better low, the mean cosine `likeness` high."""

    kid: float
    likeness: float
    colours: float


@dataclass(frozen=True)
class GapClosed:
    """Fraction of the way from the base to real images; None if the base is as close as they are."""

    kid: float | None
    colours: float | None


@dataclass(frozen=True)
class Swatch:
    lab: Sequence[float]
    share: float


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """`base` is None without a base, `floor` (real images of the brand) without held-out images."""

    extractor: str
    samples: int
    base: Closeness | None
    run: Closeness
    floor: Closeness | None
    gap_closed: GapClosed | None = None
    palettes: Mapping[str, Sequence[Swatch]]  # of "brand", "base" and "run"


@dataclass(frozen=True)
class Drift:
    """How far samples of general prompts moved from the base's, in features (1 - cosine), as sets and in colours."""

    changed: float
    seeds: float | None  # how far apart the base's samples of two seeds are
    kid: float | None
    colours: float


@dataclass(frozen=True)
class CopyingFacts:
    """How many samples of one kind of prompts are flagged as copies, and how many chance flags."""

    samples: int
    flagged: int
    asked_false_alarm: float
    false_alarm: float  # the rate that holds
    expected: float
    chance: float  # the probability of so many flags or more
    thresholds: Mapping[str, float]  # relative distance by measure
    references: int
    held_out: int
    leaked: int
    train: int
    measures: Sequence[str]


@dataclass(frozen=True)
class Band:
    """Prompts whose rarest word occurs in so many training captions, and how their samples fare."""

    band: str
    prompts: int
    samples: int
    likeness: float
    flagged: int


@dataclass(frozen=True)
class ThinWord:
    word: str
    captions: int


@dataclass(frozen=True)
class WordCoverage:
    captions: int
    bands: Sequence[Band]
    thin: Sequence[ThinWord]  # the first of the `num_thin` words that hardly any caption holds
    num_thin: int
    common: Sequence[str]  # words that most captions hold, which do not count


@dataclass(frozen=True)
class NearestImage:
    """The training image that one measure finds nearest: its distance is `relative` to the second nearest's."""

    relative: float
    near: bool  # below the threshold
    image: str
    key: str
    caption: str


@dataclass(frozen=True)
class SampleCopying:
    p: float
    flagged: bool
    hash: NearestImage
    features: NearestImage
    thumbnail: NearestImage


@dataclass(frozen=True)
class Sample:
    set: str  # the kind of its prompt: "brand", "learned" or "general"
    prompt: str
    seed: int
    before: str | None  # name of the base's picture
    image: str  # name of the run's picture
    likeness: float
    copying: SampleCopying


@dataclass(frozen=True, kw_only=True)
class SweepRow:
    """One strength ("scale") or checkpoint ("step") of the run."""

    axis: str
    value: float
    name: str
    kid: float
    likeness: float
    colours: float
    drift: float | None
    flagged: int
    samples: int
    chance: float
    undominated: bool = False
    chosen: bool = False


@dataclass(frozen=True)
class Sweep:
    rows: Sequence[SweepRow]
    goals: Sequence[str]


@dataclass(frozen=True)
class LicenseCount:
    name: str
    images: int | None
    terms: Sequence[str]


@dataclass(frozen=True)
class Rights:
    """Licences and sources of the images of one run, or of a base model (`images` is None)."""

    role: str
    images: int | None
    licenses: Sequence[LicenseCount]
    sources: Mapping[str, int | None]
    fingerprint: str | None = None


@dataclass(frozen=True, kw_only=True)
class Report:
    """Mappings are by kind of prompts: "brand", "learned", "general"; `copying` has the control "base" as well."""

    format: int = 1
    name: str
    base: str | None
    data: ImageCounts
    prompts: Mapping[str, PromptSource]
    fidelity: Fidelity
    drift: Drift | None
    copying: Mapping[str, CopyingFacts]
    coverage: WordCoverage
    samples: Sequence[Sample]
    sweep: Sweep | None
    rights: Sequence[Rights]
    made: str
    version: str
    weights: str
    step: int | None
    marks: Sequence[Mark] = ()
