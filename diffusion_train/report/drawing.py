"""Drawing for a report: the data's images, and samples of base and run for the same prompts and seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from diffusion_train.metric.extractor import Extractor
from diffusion_train.pipeline import Pipeline, default_batch_size, select_rows
from diffusion_train.report.album import Album
from diffusion_train.report.material import (
    GENERAL,
    Images,
    Prompts,
    Seen,
    base_data,
    choose_prompts,
    see,
    together,
    training_and_held_out,
)
from diffusion_train.report.models import Models

MIN_IMAGES = 2  # images that a distance between sets needs


@dataclass(frozen=True)
class Settings:
    """Settings of a report, which conf/report.yaml explains."""

    prompts: Sequence[str]
    general_prompts: Sequence[str]
    sources: Sequence[str] | None
    num_prompts: int
    num_samples: int
    seed: int
    batch_size: int | None
    max_images: int
    false_alarm: float
    scales: Sequence[float]
    steps: bool
    brand: str | None = None
    owner: str | None = None

    def __post_init__(self) -> None:
        for name in ("num_prompts", "num_samples", "batch_size"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.false_alarm < 1:
            raise ValueError(f"false_alarm must be a fraction between 0 and 1, got {self.false_alarm}")
        if self.max_images < MIN_IMAGES:
            raise ValueError(f"max_images must be at least {MIN_IMAGES}, got {self.max_images}")


@dataclass(frozen=True)
class Artist:
    """Draws samples, extracts what a report compares, and writes their pictures into the album."""

    settings: Settings
    extractor: Extractor
    album: Album

    def draw(
        self,
        pipeline: Pipeline,
        prompts: Prompts,
        rows: Sequence[int],
        seeds: Sequence[int],
        save_pictures: bool = False,
    ) -> tuple[Seen, list[str]]:
        """Return what is kept of the samples, one a row of `rows`, and if `save_pictures` the pictures' names."""
        batch_size = self.settings.batch_size or default_batch_size(pipeline.shape)
        seen, names = [], []
        for start in range(0, len(rows), batch_size):
            part = slice(start, start + batch_size)
            samples = pipeline.sample(seeds[part], select_rows(prompts.conditions, rows[part]), batch_size).clamp(-1, 1)
            seen.append(see(samples, self.extractor))
            names += [self.album.add(x) for x in samples] if save_pictures else []
        return together(*seen), names


@dataclass(frozen=True)
class Sampled:
    """Prompts of one kind, and `num_samples` samples a prompt of the base (None without one) and of the run.

    `pictures_before` and `pictures` are names in the album, of the base's samples and the run's.
    """

    prompts: Prompts
    rows: Sequence[int]
    seeds: Sequence[int]
    before: Seen | None
    after: Seen
    pictures_before: Sequence[str]
    pictures: Sequence[str]

    def drawn_by(self, artist: Artist, pipeline: Pipeline) -> Seen:
        return artist.draw(pipeline, self.prompts, self.rows, self.seeds)[0]


@dataclass(frozen=True)
class Drawn:
    """All that a report measures. `brand` is held-out images, or the training images if too few are held out."""

    train: Images
    held_out: Images
    seen_train: Seen
    seen_held_out: Seen
    kinds: dict[str, Sampled]  # "brand", "learned" and, if there are such prompts, "general"
    has_base: bool

    @property
    def has_held_out(self) -> bool:
        return len(self.held_out) >= MIN_IMAGES

    @property
    def brand(self) -> Seen:
        return self.seen_held_out if self.has_held_out else self.seen_train

    @property
    def brand_images(self) -> Images:
        """The images of `brand`, with their captions."""
        return self.held_out if self.has_held_out else self.train


def draw_all(models: Models, artist: Artist) -> Drawn:
    """Return the images and samples of a run. Raises ValueError if its data are not images, or too few of them."""
    cfg, settings = models.cfg, artist.settings
    train, held_out = training_and_held_out(cfg, settings.max_images, artist.extractor, settings.sources)
    if len(train) < MIN_IMAGES or train.seen is None:
        raise ValueError(f"a report needs at least {MIN_IMAGES} training images, got {len(train)}")
    seen_held_out = held_out.seen or train.seen.rows([])
    base, own = models.base(), models.own()
    prompts = _prompts(cfg, settings, train, held_out)
    if len(prompts["brand"]) * settings.num_samples < MIN_IMAGES:
        raise ValueError(
            f"a report needs at least {MIN_IMAGES} samples of the brand; set num_samples={MIN_IMAGES} or more"
        )
    kinds = {kind: _sample(artist, one, base, own) for kind, one in prompts.items() if len(one)}
    return Drawn(train, held_out, train.seen, seen_held_out, kinds, base is not None)


def _prompts(cfg: Any, settings: Settings, train: Images, held_out: Images) -> dict[str, Prompts]:
    of_training = (train, "captions of training images")
    return {
        "brand": choose_prompts(
            settings.prompts, [(held_out, "captions of held-out images"), of_training], settings.num_prompts
        ),
        "learned": choose_prompts((), [of_training], settings.num_prompts),
        "general": _general(cfg, settings),
    }


def _general(cfg: Any, settings: Settings) -> Prompts:
    own, most = settings.general_prompts, settings.num_prompts
    images = None if own else base_data(cfg, most)
    if images is None:
        listed = own or (GENERAL[:most] if cfg.pretrained else ())
        return Prompts({"caption": list(listed)}, "given" if own else "everyday things")
    train, held_out = images
    sources = [(held_out, "held-out captions of the base's data"), (train, "captions of the base's data")]
    return choose_prompts((), sources, most)


def _sample(artist: Artist, prompts: Prompts, base: Pipeline | None, run: Pipeline) -> Sampled:
    count = artist.settings.num_samples
    rows = [row for row in range(len(prompts)) for _ in range(count)]
    seeds = [artist.settings.seed + number % count for number in range(len(rows))]
    before, pictures_before = artist.draw(base, prompts, rows, seeds, save_pictures=True) if base else (None, [])
    after, pictures = artist.draw(run, prompts, rows, seeds, save_pictures=True)
    return Sampled(prompts, rows, seeds, before, after, pictures_before, pictures)
