"""Building of a report: measures a run, and writes the pictures that the report names into the artist's album."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from tqdm import tqdm

from diffusion_train import __version__
from diffusion_train.config.model_changes import model_changes
from diffusion_train.metric.copying import Audit, Nearest
from diffusion_train.report import facts, measure, sweep
from diffusion_train.report.coverage import Coverage
from diffusion_train.report.drawing import Artist, Drawn, draw_all
from diffusion_train.report.material import Images, Seen, together
from diffusion_train.report.models import Models, Row
from diffusion_train.report.rights_table import rights
from diffusion_train.report.sweep import Sweep, SweepRow

_SHOWN = 12  # of the brand's own images


def build(run: Path, cfg: Any, artist: Artist, device: str) -> facts.Report:
    """Return the report of a run folder with config `cfg`, without marks. Raises ValueError as `draw_all` does."""
    changed = model_changes(run, cfg)
    models = Models(run, cfg, device)
    drawn = draw_all(models, artist)
    builder = Builder(drawn, artist)
    samples = builder.samples()
    rows = models.scale_rows(artist.settings.scales)
    rows += models.step_rows() if artist.settings.steps else []
    return facts.Report(
        name=str(cfg.name),
        brand=_named(artist.settings.brand, cfg.get("brand")),
        owner=_named(artist.settings.owner, cfg.get("owner")),
        base=Path(cfg.pretrained).name if drawn.has_base else None,
        data=builder.data(),
        prompts={kind: facts.PromptSource(len(one.prompts), one.prompts.origin) for kind, one in drawn.kinds.items()},
        fidelity=builder.fidelity(),
        drift=builder.drift(),
        copying=builder.copying_by_kind(),
        coverage=builder.coverage(samples),
        samples=samples,
        brand_images=builder.brand_images(),
        sweep=builder.sweep(rows),
        rights=rights(run, cfg.pretrained, OmegaConf.select(cfg, "base_record.license")),
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        version=__version__,
        weights=models.sha256,
        scale=models.scale,
        step=models.step,
        changed=changed,
    )


class Builder:
    """Measures the parts of a report on the images and samples in `drawn`."""

    def __init__(self, drawn: Drawn, artist: Artist) -> None:
        self.drawn, self.artist, self.settings = drawn, artist, artist.settings
        self.copying = measure.calibrate(drawn.seen_train, drawn.seen_held_out, self.settings.false_alarm)
        self._pictures: dict[tuple[int, int], str] = {}  # names by set of images and index in it
        rate = self.settings.false_alarm
        self.checks = {kind: self.copying.check(one.after, rate) for kind, one in drawn.kinds.items()}

    def data(self) -> facts.ImageCounts:
        train, held_out = self.drawn.train, self.drawn.held_out
        reference = "held-out images" if self.drawn.has_held_out else "training images"
        return facts.ImageCounts(train.total, len(train), held_out.total, len(held_out), reference)

    def fidelity(self) -> facts.Fidelity:
        one, brand, count = self.drawn.kinds["brand"], self.drawn.brand, self.settings.num_samples
        base = measure.fidelity(one.before, brand, count) if one.before else None
        run = measure.fidelity(one.after, brand, count)
        floor = measure.floor(self.drawn.seen_train, brand, len(one.after)) if self.drawn.has_held_out else None
        sets = {"brand": brand, "base": one.before, "run": one.after}
        return facts.Fidelity(
            extractor=self.artist.extractor.name,
            samples=len(one.after),
            base=base,
            run=run,
            floor=floor,
            change=measure.kid_change(one.before, one.after, brand, count) if one.before else None,
            changed=measure.change(one.before, one.after) if one.before else None,
            gap_closed=_gap_closed(base, run, floor) if base and floor else None,
            palettes={name: measure.swatches(measure.colours(seen)) for name, seen in sets.items() if seen},
        )

    def drift(self) -> facts.Drift | None:
        one = self.drawn.kinds.get("general")
        return measure.drift(one.before, one.after, self.settings.num_samples) if one and one.before else None

    def copying_by_kind(self) -> dict[str, facts.CopyingFacts]:
        """Return the figures by kind of prompts; "base" is the control: brand and training prompts, by the base."""
        asked, kinds = self.settings.false_alarm, self.drawn.kinds
        audits = {kind: audit for kind, (audit, _) in self.checks.items()}
        before, of_training = kinds["brand"].before, kinds["learned"].before
        if before and of_training:
            audits["base"], _ = self.copying.check(together(before, of_training), asked)
        return {kind: measure.copying_facts(self.copying, audit, asked) for kind, audit in audits.items()}

    def coverage(self, samples: Sequence[facts.Sample]) -> facts.WordCoverage:
        brand = [sample for sample in samples if sample.set == "brand"]
        return Coverage(self.drawn.train.batch["caption"]).table(
            [sample.prompt for sample in brand],
            [sample.likeness for sample in brand],
            [sample.copying.flagged for sample in brand],
        )

    def samples(self) -> list[facts.Sample]:
        return [sample for kind, check in self.checks.items() for sample in self._samples(kind, *check)]

    def _samples(self, kind: str, audit: Audit, near: Mapping[str, Nearest]) -> Iterator[facts.Sample]:
        one = self.drawn.kinds[kind]
        likeness = measure.likeness(one.after, self.drawn.brand)
        for number, row in enumerate(one.rows):
            pairs = {name: self._pair(number, pair, audit.thresholds[name]) for name, pair in near.items()}
            yield facts.Sample(
                set=kind,
                prompt=one.prompts.conditions["caption"][row],
                seed=one.seeds[number],
                before=one.pictures_before[number] if one.before else None,
                image=one.pictures[number],
                own=self._own(one.prompts.conditions["caption"][row]) if kind != "general" else None,
                likeness=float(likeness[number]),
                copying=facts.SampleCopying(float(audit.p[number]), bool(audit.flagged[number]), **pairs),
            )

    def brand_images(self) -> list[facts.BrandImage]:
        """Return a few of the brand's images, spread evenly."""
        images = self.drawn.brand_images
        count = min(_SHOWN, len(images))
        chosen = [index * len(images) // count for index in range(count)]
        return [facts.BrandImage(self._picture(images, index), images.batch["caption"][index]) for index in chosen]

    def _own(self, caption: str) -> str | None:
        """Return the picture of the first image with this caption, of held-out images first; None without one."""
        for images in (self.drawn.held_out, self.drawn.train):
            if caption and caption in images.batch["caption"]:
                return self._picture(images, images.batch["caption"].index(caption))
        return None

    def _pair(self, number: int, near: Nearest, threshold: float) -> facts.NearestImage:
        batch, relative = self.drawn.train.batch, float(near.distance[number])
        index = self.copying.indices[int(near.row[number])]
        key, caption = batch["key"][index], batch["caption"][index]
        picture = self._picture(self.drawn.train, index)
        return facts.NearestImage(relative, relative < threshold, picture, key, caption)

    def _picture(self, images: Images, index: int) -> str:
        if (id(images), index) not in self._pictures:
            self._pictures[id(images), index] = self.artist.album.add(images.picture(index))
        return self._pictures[id(images), index]

    def sweep(self, rows: Sequence[Row]) -> Sweep | None:
        """Draw and measure each setting. Returns None if there are fewer than two."""
        if len(rows) < 2:
            return None
        bar = tqdm(rows, "Comparing settings", unit="setting", mininterval=0.5, disable=None)
        measured = [self._sweep_row(row) for row in bar]
        good, chosen = sweep.undominated(measured), sweep.choose(measured)
        return Sweep(
            [replace(row, undominated=good[index], chosen=index == chosen) for index, row in enumerate(measured)],
            sweep.GOALS,
        )

    def _sweep_row(self, row: Row) -> SweepRow:
        seen, kinds = self._samples_of(row), self.drawn.kinds
        closeness = measure.fidelity(seen["brand"], self.drawn.brand, self.settings.num_samples)
        before = kinds["general"].before if "general" in kinds else None
        audit, _ = self.copying.check(together(seen["brand"], seen["learned"]), self.settings.false_alarm)
        copying = measure.copying_facts(self.copying, audit, self.settings.false_alarm)
        return SweepRow(
            axis=row.axis,
            value=row.value,
            name=row.name,
            kid=closeness.kid,
            kid_error=closeness.kid_error,
            likeness=closeness.likeness,
            colours=closeness.colours,
            drift=measure.change(before, seen["general"]) if before else None,
            flagged=copying.flagged,
            samples=copying.samples,
            chance=copying.chance,
        )

    def _samples_of(self, row: Row) -> dict[str, Seen]:
        """Return the samples of a setting by kind, for every setting of the same prompts and seeds."""
        if row.drawn == "run":
            return {kind: one.after for kind, one in self.drawn.kinds.items()}
        if row.drawn == "base":
            return {kind: one.before for kind, one in self.drawn.kinds.items() if one.before}
        pipeline = row.pipeline()
        return {kind: one.drawn_by(self.artist, pipeline) for kind, one in self.drawn.kinds.items()}


def _named(*names: Any) -> str | None:
    return next((str(name) for name in names if name), None)


def _gap_closed(base: facts.Closeness, run: facts.Closeness, floor: facts.Closeness) -> facts.GapClosed:
    return facts.GapClosed(
        kid=measure.gap_closed(base.kid, run.kid, floor.kid),
        colours=measure.gap_closed(base.colours, run.colours, floor.colours),
    )
