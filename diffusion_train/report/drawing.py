"""What a report is made of: the data's images, and samples of base and run for the same prompts and seeds."""

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

MIN_IMAGES = 2  # that a distance between sets needs
_FEW = 8  # prompts


@dataclass(frozen=True)
class Settings:
    """Of a report: `conf/report.yaml` says what each means."""

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

    def __post_init__(self) -> None:
        for name in ("num_prompts", "num_samples", "batch_size"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: at least 1")
        if not 0 < self.false_alarm < 1:
            raise ValueError(f"false_alarm={self.false_alarm}: a share between 0 and 1")
        if self.max_images < MIN_IMAGES:
            raise ValueError(f"max_images={self.max_images}: at least {MIN_IMAGES}")


@dataclass(frozen=True)
class Artist:
    """Draws what prompts ask for, and looks at it."""

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
        """-> what was seen of the samples, and where `save_pictures` is set their names in the album."""
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
    """Prompts of one kind with the samples of base (None without one) and run: `num_samples` rows a prompt.

    `pictures` are the names of the run's in the album, and `pictures_before` those of the base's.
    """

    prompts: Prompts
    rows: Sequence[int]
    seeds: Sequence[int]
    before: Seen | None
    after: Seen
    pictures_before: Sequence[str]
    pictures: Sequence[str]

    def few(self) -> list[int]:
        """Places of the samples that a sweep draws: the first seed of each prompt; of few prompts every seed."""
        if len(self.prompts) < _FEW:
            return list(range(len(self.rows)))
        return [index for index, row in enumerate(self.rows) if index == 0 or row != self.rows[index - 1]]

    def drawn_by(self, artist: Artist, pipeline: Pipeline, indices: Sequence[int]) -> Seen:
        rows, seeds = ([values[index] for index in indices] for values in (self.rows, self.seeds))
        return artist.draw(pipeline, self.prompts, rows, seeds)[0]


@dataclass(frozen=True)
class Drawn:
    """`brand` is what closeness is measured against: held-out images, or where there are too few the training images."""

    train: Images
    held_out: Images
    seen_train: Seen
    seen_held_out: Seen
    kinds: dict[str, Sampled]  # brand, learned and, where there is something to compare with, general prompts
    has_base: bool

    @property
    def has_held_out(self) -> bool:
        return len(self.held_out) >= MIN_IMAGES

    @property
    def brand(self) -> Seen:
        return self.seen_held_out if self.has_held_out else self.seen_train


def draw_all(models: Models, artist: Artist) -> Drawn:
    """Raises ValueError for a run on other data than images, or on too few."""
    cfg, settings = models.cfg, artist.settings
    train, held_out = training_and_held_out(cfg, settings.max_images, artist.extractor, settings.sources)
    if len(train) < MIN_IMAGES or train.seen is None:
        raise ValueError(f"the run's data hold {len(train)} images; a report needs {MIN_IMAGES}")
    seen_held_out = held_out.seen or train.seen.rows([])
    base, own = models.base(), models.own()
    prompts = _prompts(cfg, settings, train, held_out)
    if len(prompts["brand"]) * settings.num_samples < MIN_IMAGES:
        raise ValueError(f"one sample tells nothing of a brand: give num_samples={MIN_IMAGES} or more")
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
    given, most = settings.general_prompts, settings.num_prompts
    found = None if given else base_data(cfg, most)
    if found is None:
        listed = given or (GENERAL[:most] if cfg.pretrained else ())
        return Prompts({"caption": list(listed)}, "given" if given else "everyday things")
    train, held_out = found
    sources = [(held_out, "held-out captions of the base's data"), (train, "captions of the base's data")]
    return choose_prompts((), sources, most)


def _sample(artist: Artist, prompts: Prompts, base: Pipeline | None, run: Pipeline) -> Sampled:
    count = artist.settings.num_samples
    rows = [row for row in range(len(prompts)) for _ in range(count)]
    seeds = [artist.settings.seed + number % count for number in range(len(rows))]
    before, pictures_before = artist.draw(base, prompts, rows, seeds, save_pictures=True) if base else (None, [])
    after, pictures = artist.draw(run, prompts, rows, seeds, save_pictures=True)
    return Sampled(prompts, rows, seeds, before, after, pictures_before, pictures)
