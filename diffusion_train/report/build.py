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
from diffusion_train.metric.copying import Audit, Nearest
from diffusion_train.report import facts, measure, sweep
from diffusion_train.report.coverage import Coverage
from diffusion_train.report.drawing import Artist, Drawn, draw_all
from diffusion_train.report.material import together
from diffusion_train.report.models import Models, Row
from diffusion_train.report.rights_table import rights
from diffusion_train.run_folder import weights_file
from diffusion_train.utils.files import file_sha256


def build(run: Path, cfg: Any, artist: Artist, device: str) -> facts.Report:
    """Return the report of a run folder with config `cfg`, without marks. Raises ValueError as `draw_all` does."""
    models = Models(run, cfg, device)
    drawn = draw_all(models, artist)
    builder = Builder(drawn, artist)
    samples = builder.samples()
    rows = models.scale_rows(artist.settings.scales)
    rows += models.step_rows() if artist.settings.steps else []
    return facts.Report(
        name=str(cfg.name),
        base=Path(cfg.pretrained).name if drawn.has_base else None,
        data=builder.data(),
        prompts={kind: facts.PromptSource(len(one.prompts), one.prompts.origin) for kind, one in drawn.kinds.items()},
        fidelity=builder.fidelity(),
        drift=builder.drift(),
        copying=builder.copying_by_kind(),
        coverage=builder.coverage(samples),
        samples=samples,
        sweep=builder.sweep(rows),
        rights=rights(run, cfg.pretrained, OmegaConf.select(cfg, "base_record.license")),
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        version=__version__,
        weights=file_sha256(weights_file(run))[:16],
        step=models.step,
    )


class Builder:
    """Measures the parts of a report on the images and samples in `drawn`."""

    def __init__(self, drawn: Drawn, artist: Artist) -> None:
        self.drawn, self.artist, self.settings = drawn, artist, artist.settings
        self.copying = measure.calibrate(drawn.seen_train, drawn.seen_held_out, self.settings.false_alarm)
        self._originals: dict[int, str] = {}  # names of training images' pictures by their index
        rate = self.settings.false_alarm
        self.checks = {kind: self.copying.check(one.after, rate) for kind, one in drawn.kinds.items()}

    def data(self) -> facts.ImageCounts:
        train, held_out = self.drawn.train, self.drawn.held_out
        reference = "held-out images" if self.drawn.has_held_out else "training images"
        return facts.ImageCounts(train.total, len(train), held_out.total, len(held_out), reference)

    def fidelity(self) -> facts.Fidelity:
        one, brand = self.drawn.kinds["brand"], self.drawn.brand
        base = measure.fidelity(one.before, brand) if one.before else None
        run = measure.fidelity(one.after, brand)
        floor = measure.floor(self.drawn.seen_train, brand, len(one.after)) if self.drawn.has_held_out else None
        sets = {"brand": brand, "base": one.before, "run": one.after}
        return facts.Fidelity(
            extractor=self.artist.extractor.name,
            samples=len(one.after),
            base=base,
            run=run,
            floor=floor,
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
                likeness=float(likeness[number]),
                copying=facts.SampleCopying(float(audit.p[number]), bool(audit.flagged[number]), **pairs),
            )

    def _pair(self, number: int, near: Nearest, threshold: float) -> facts.NearestImage:
        batch, relative = self.drawn.train.batch, float(near.distance[number])
        index = self.copying.indices[int(near.row[number])]
        key, caption = batch["key"][index], batch["caption"][index]
        return facts.NearestImage(relative, relative < threshold, self._original(index), key, caption)

    def _original(self, index: int) -> str:
        if index not in self._originals:
            self._originals[index] = self.artist.album.add(self.drawn.train.picture(index))
        return self._originals[index]

    def sweep(self, rows: Sequence[Row]) -> facts.Sweep | None:
        """Draw and measure each setting. Returns None if there are fewer than two."""
        if len(rows) < 2:
            return None
        bar = tqdm(rows, "Comparing settings", unit="setting", mininterval=0.5, disable=None)
        measured = [self._sweep_row(row) for row in bar]
        good, chosen = sweep.undominated(measured), sweep.choose(measured)
        return facts.Sweep(
            [replace(row, undominated=good[index], chosen=index == chosen) for index, row in enumerate(measured)],
            sweep.GOALS,
        )

    def _sweep_row(self, row: Row) -> facts.SweepRow:
        pipeline, kinds = row.pipeline(), self.drawn.kinds
        indices = {kind: one.few() for kind, one in kinds.items()}
        seen = {kind: one.drawn_by(self.artist, pipeline, indices[kind]) for kind, one in kinds.items()}
        closeness = measure.fidelity(seen["brand"], self.drawn.brand)
        before = kinds["general"].before if "general" in kinds else None
        audit, _ = self.copying.check(together(seen["brand"], seen["learned"]), self.settings.false_alarm)
        copying = measure.copying_facts(self.copying, audit, self.settings.false_alarm)
        return facts.SweepRow(
            axis=row.axis,
            value=row.value,
            name=row.name,
            kid=closeness.kid,
            likeness=closeness.likeness,
            colours=closeness.colours,
            drift=measure.change(before.rows(indices["general"]), seen["general"]) if before else None,
            flagged=copying.flagged,
            samples=copying.samples,
            chance=copying.chance,
        )


def _gap_closed(base: facts.Closeness, run: facts.Closeness, floor: facts.Closeness) -> facts.GapClosed:
    return facts.GapClosed(
        kid=measure.gap_closed(base.kid, run.kid, floor.kid),
        colours=measure.gap_closed(base.colours, run.colours, floor.colours),
    )
