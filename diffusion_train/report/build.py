"""A report as plain data, and the pictures that it names."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion_train.metric.copying import Audit, Nearest, cosine_distance, nearest
from diffusion_train.metric.extractor import Extractor
from diffusion_train.metric.palette import palette
from diffusion_train.picture import to_image
from diffusion_train.pipeline import Pipeline, take
from diffusion_train.report import measure, sweep
from diffusion_train.report.coverage import Coverage
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
from diffusion_train.report.models import Row, base_pipeline, scale_rows, step_rows
from diffusion_train.report.rights import rights
from diffusion_train.run_folder import load_pipeline

FORMAT = 1
MIN_IMAGES = 2  # that a distance between sets needs


@dataclass(frozen=True)
class Settings:
    """Of a report: `conf/report.yaml` says what each means."""

    prompts: Sequence[str]
    general_prompts: Sequence[str]
    num_prompts: int
    num_samples: int
    seed: int
    batch_size: int
    max_images: int
    false_alarm: float
    scales: Sequence[float]
    steps: bool

    def __post_init__(self) -> None:
        for name in ("num_prompts", "num_samples", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: at least 1")
        if not 0 < self.false_alarm < 1:
            raise ValueError(f"false_alarm={self.false_alarm}: a share between 0 and 1")
        if self.max_images < MIN_IMAGES:
            raise ValueError(f"max_images={self.max_images}: at least {MIN_IMAGES}")


@dataclass
class Sampled:
    """Prompts of one kind with the samples of base (None without one) and run: `num_samples` rows a prompt."""

    prompts: Prompts
    rows: list[int]
    seeds: list[int]
    before: Seen | None
    after: Seen


@dataclass
class Builder:
    """Looks at one run; `pictures` are all that the report shows, by their hash."""

    run: Path
    cfg: Any
    settings: Settings
    extractor: Extractor
    device: str
    pictures: dict[str, Tensor] = field(default_factory=dict)

    def build(self) -> dict[str, Any]:
        ask = self.settings
        self.train, self.held_out = training_and_held_out(self.cfg, ask.max_images)
        if len(self.train) < MIN_IMAGES:
            raise ValueError(f"the run's data hold {len(self.train)} images; a report needs {MIN_IMAGES}")
        self.seen_train = see(self.train.batch["x"], self.extractor)
        self.seen_held_out = self._see_held_out()
        self.has_brand = len(self.held_out) >= MIN_IMAGES
        self.brand = self.seen_held_out if self.has_brand else self.seen_train
        self.copying = measure.calibrate(self.seen_train, self.seen_held_out, ask.false_alarm)
        base, run = base_pipeline(self.run, self.cfg, self.device), load_pipeline(self.run, self.cfg, self.device)
        prompts = {
            "brand": self._brand_prompts(),
            "learned": choose_prompts((), [(self.train, "captions of training images")], ask.num_prompts),
            "general": self._general_prompts(),
        }
        self.kinds = {kind: self._sample(one, base, run) for kind, one in prompts.items() if len(one)}
        return self._report(base is not None)

    def _see_held_out(self) -> Seen:
        if len(self.held_out):
            return see(self.held_out.batch["x"], self.extractor)
        return self.seen_train.rows([])

    def _brand_prompts(self) -> Prompts:
        sources = [(self.held_out, "captions of held-out images"), (self.train, "captions of training images")]
        return choose_prompts(self.settings.prompts, sources, self.settings.num_prompts)

    def _general_prompts(self) -> Prompts:
        given = self.settings.general_prompts
        found = None if given else base_data(self.cfg, self.settings.num_prompts)
        if found is None:
            listed = given or (GENERAL[: self.settings.num_prompts] if self.cfg.pretrained else ())
            return Prompts({"caption": list(listed)}, "given" if given else "a list of everyday things")
        train, held_out = found
        sources = [(held_out, "held-out captions of the base's data"), (train, "captions of the base's data")]
        return choose_prompts((), sources, self.settings.num_prompts)

    def _sample(self, prompts: Prompts, base: Pipeline | None, run: Pipeline) -> Sampled:
        count = self.settings.num_samples
        rows = [row for row in range(len(prompts)) for _ in range(count)]
        seeds = [self.settings.seed + number % count for number in range(len(rows))]
        before = self._draw(base, prompts, rows, seeds) if base else None
        return Sampled(prompts, rows, seeds, before, self._draw(run, prompts, rows, seeds))

    def _draw(self, pipeline: Pipeline, prompts: Prompts, rows: Sequence[int], seeds: Sequence[int]) -> Seen:
        samples = pipeline.sample(take(prompts.conditions, rows), seeds, self.settings.batch_size)
        return see(samples.clamp(-1, 1), self.extractor)

    def _report(self, has_base: bool) -> dict[str, Any]:
        checks = {kind: self.copying.check(one.after, self.settings.false_alarm) for kind, one in self.kinds.items()}
        samples = [entry for kind in self.kinds for entry in self._entries(kind, *checks[kind])]
        brand = [entry for entry in samples if entry["set"] == "brand"]
        coverage = Coverage(self.train.batch["caption"]).table(
            [entry["prompt"] for entry in brand],
            [entry["likeness"] for entry in brand],
            [entry["copying"]["flagged"] for entry in brand],
        )
        return {
            "format": FORMAT,
            "name": str(self.cfg.name),
            "base": Path(self.cfg.pretrained).name if has_base else None,
            "data": self._data_facts(),
            "prompts": {
                kind: {"count": len(one.prompts), "origin": one.prompts.origin} for kind, one in self.kinds.items()
            },
            "seeds": self.settings.num_samples,
            "fidelity": self._fidelity(),
            "drift": self._drift(),
            "copying": self._copying(checks),
            "coverage": coverage,
            "sweep": self._sweep(),
            "rights": rights(self.run, self.cfg.pretrained),
            "samples": samples,
        }

    def _data_facts(self) -> dict[str, Any]:
        return {
            "train": self.train.total,
            "train_seen": len(self.train),
            "held_out": self.held_out.total,
            "held_out_seen": len(self.held_out),
            "reference": "held-out images" if self.has_brand else "training images",
        }

    def _fidelity(self) -> dict[str, Any]:
        one = self.kinds["brand"]
        found: dict[str, Any] = {"extractor": self.extractor.name, "samples": len(one.after.x)}
        sets = {"base": one.before, "run": one.after}
        for name, seen in sets.items():
            found[name] = measure.fidelity(seen, self.brand) if seen and len(seen.x) >= MIN_IMAGES else None
        found["floor"] = measure.floor(self.seen_train, self.brand, len(one.after.x)) if self.has_brand else None
        if all(found[name] for name in ("base", "run", "floor")):
            found["gap_closed"] = {
                key: measure.gap_closed(found["base"][key], found["run"][key], found["floor"][key])
                for key in ("kid", "colours")
            }
        named = {"brand": self.brand, **{name: seen for name, seen in sets.items() if seen}}
        found["palettes"] = {name: measure.swatches(palette(seen.x)) for name, seen in named.items()}
        return found

    def _drift(self) -> dict[str, Any] | None:
        one = self.kinds.get("general")
        return measure.drift(one.before, one.after, self.settings.num_samples) if one and one.before else None

    def _copying(self, checks: dict[str, tuple[Audit, dict[str, Nearest]]]) -> dict[str, Any]:
        """By kind of prompt; "base" is the control: the same brand and training prompts, by who never saw the images."""
        asked = self.settings.false_alarm
        audits = {kind: check for kind, (check, _) in checks.items()}
        if before := self.kinds["brand"].before:
            learned = self.kinds["learned"].before
            audits["base"] = self.copying.check(together(before, learned) if learned else before, asked)[0]
        return {kind: measure.copying_facts(self.copying, found, asked) for kind, found in audits.items()}

    def _entries(self, kind: str, found: Audit, near: dict[str, Nearest]) -> list[dict[str, Any]]:
        one = self.kinds[kind]
        likeness = 1 - nearest(cosine_distance(one.after.features, self.brand.features)).distance
        return [
            {
                "set": kind,
                "prompt": one.prompts.conditions["caption"][row],
                "seed": one.seeds[number],
                "before": self._keep(one.before.x[number]) if one.before else None,
                "image": self._keep(one.after.x[number]),
                "likeness": float(likeness[number]),
                "copying": {
                    "p": float(found.p[number]),
                    "flagged": bool(found.flagged[number]),
                    **{name: self._pair(name, number, pair, found) for name, pair in near.items()},
                },
            }
            for number, row in enumerate(one.rows)
        ]

    def _pair(self, measured: str, number: int, near: Nearest, found: Audit) -> dict[str, Any]:
        place, distance = int(near.place[number]), float(near.distance[number])
        return {
            "distance": distance,
            "near": distance < found.thresholds[measured],
            "image": self._keep(self.train.batch["x"][place]),
            "key": self.train.batch["key"][place],
            "caption": self.train.batch["caption"][place],
        }

    def _keep(self, x: Tensor) -> str:
        name = picture_hash(x)
        self.pictures.setdefault(name, x)
        return name

    def _sweep(self) -> dict[str, Any] | None:
        rows = scale_rows(self.run, self.cfg, self.settings.scales, self.device)
        rows += step_rows(self.run, self.cfg, self.device) if self.settings.steps else []
        if len(rows) < 2:
            return None
        found = [self._sweep_row(row) for row in rows]
        good, chosen = sweep.undominated(found), sweep.choose(found)
        for place, row in enumerate(found):
            row |= {"undominated": good[place], "chosen": place == chosen}
        return {"rows": found, "goals": list(sweep.GOALS)}

    def _sweep_row(self, row: Row) -> dict[str, Any]:
        """The first seed of every prompt."""
        pipeline, seen = row.pipeline(), {}
        for kind, one in self.kinds.items():
            prompts = range(len(one.prompts))
            seen[kind] = self._draw(pipeline, one.prompts, prompts, [self.settings.seed] * len(prompts))
        brand, general = seen["brand"], self.kinds.get("general")
        check, _ = self.copying.check(together(brand, seen["learned"]), self.settings.false_alarm)
        facts = measure.copying_facts(self.copying, check, self.settings.false_alarm)
        drift = None
        if general and general.before:
            first = general.before.rows(range(0, len(general.rows), self.settings.num_samples))
            drift = measure.drift(first, seen["general"], 1)["changed"]
        close = measure.fidelity(brand, self.brand) if len(brand.x) >= MIN_IMAGES else dict.fromkeys(("kid", "colours"))
        return {
            "axis": row.axis,
            "value": row.value,
            "name": row.name,
            **close,
            "drift": drift,
            "flagged": facts["flagged"],
            "samples": facts["samples"],
            "chance": facts["chance"],
        }


def picture_hash(x: Tensor) -> str:
    """Of the pixels and sizes of an image (C, H, W), whatever file it stands in."""
    image = to_image(x)
    return hashlib.sha256(f"{image.mode} {image.size} ".encode() + image.tobytes()).hexdigest()[:32]


