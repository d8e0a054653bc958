"""A report as plain data. The pictures that it names are written into the artist's album on the way."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from tqdm import tqdm

from diffusion_train.metric.copying import Audit, Nearest, cosine_distance, nearest
from diffusion_train.report import measure, sweep
from diffusion_train.report.coverage import Coverage
from diffusion_train.report.drawing import Artist, Drawn, draw_all
from diffusion_train.report.material import together
from diffusion_train.report.models import Models, Row
from diffusion_train.report.rights_table import rights

FORMAT = 1


def build(run: Path, cfg: Any, artist: Artist, device: str) -> dict[str, Any]:
    models = Models(run, cfg, device)
    drawn = draw_all(models, artist)
    builder = Builder(drawn, artist)
    rows = models.scale_rows(artist.settings.scales)
    rows += models.step_rows() if artist.settings.steps else []
    return {
        "format": FORMAT,
        "name": str(cfg.name),
        "base": Path(cfg.pretrained).name if drawn.has_base else None,
        **builder.report(),
        "sweep": builder.sweep(rows),
        "rights": rights(run, cfg.pretrained, OmegaConf.select(cfg, "base_record.license")),
    }


class Builder:
    def __init__(self, drawn: Drawn, artist: Artist) -> None:
        self.drawn, self.artist, self.settings = drawn, artist, artist.settings
        self.copying = measure.calibrate(drawn.seen_train, drawn.seen_held_out, self.settings.false_alarm)
        self._originals: dict[int, str] = {}  # names of training images' pictures by their index

    def report(self) -> dict[str, Any]:
        kinds, rate = self.drawn.kinds, self.settings.false_alarm
        checks = {kind: self.copying.check(one.after, rate) for kind, one in kinds.items()}
        samples = [entry for kind in kinds for entry in self._entries(kind, *checks[kind])]
        brand = [entry for entry in samples if entry["set"] == "brand"]
        coverage = Coverage(self.drawn.train.batch["caption"]).table(
            [entry["prompt"] for entry in brand],
            [entry["likeness"] for entry in brand],
            [entry["copying"]["flagged"] for entry in brand],
        )
        prompts = {kind: {"count": len(one.prompts), "origin": one.prompts.origin} for kind, one in kinds.items()}
        return {
            "data": self._data_facts(),
            "prompts": prompts,
            "fidelity": self._fidelity(),
            "drift": self._drift(),
            "copying": self._copying({kind: audit for kind, (audit, _) in checks.items()}),
            "coverage": coverage,
            "samples": samples,
        }

    def _data_facts(self) -> dict[str, Any]:
        train, held_out = self.drawn.train, self.drawn.held_out
        return {
            "train": train.total,
            "train_seen": len(train),
            "held_out": held_out.total,
            "held_out_seen": len(held_out),
            "reference": "held-out images" if self.drawn.has_held_out else "training images",
        }

    def _fidelity(self) -> dict[str, Any]:
        one, brand = self.drawn.kinds["brand"], self.drawn.brand
        base = measure.fidelity(one.before, brand) if one.before else None
        run = measure.fidelity(one.after, brand)
        floor = measure.floor(self.drawn.seen_train, brand, len(one.after)) if self.drawn.has_held_out else None
        closed = {}
        if base and floor:
            closed["gap_closed"] = {
                key: measure.gap_closed(base[key], run[key], floor[key]) for key in ("kid", "colours")
            }
        sets = {"brand": brand, "base": one.before, "run": one.after}
        return {
            "extractor": self.artist.extractor.name,
            "samples": len(one.after),
            "base": base,
            "run": run,
            "floor": floor,
            **closed,
            "palettes": {name: measure.swatches(measure.colours(seen)) for name, seen in sets.items() if seen},
        }

    def _drift(self) -> dict[str, Any] | None:
        one = self.drawn.kinds.get("general")
        return measure.drift(one.before, one.after, self.settings.num_samples) if one and one.before else None

    def _copying(self, audits: dict[str, Audit]) -> dict[str, Any]:
        """By kind of prompt; "base" is the control: the same brand and training prompts, by who never saw the images."""
        asked, kinds = self.settings.false_alarm, self.drawn.kinds
        before, of_training = kinds["brand"].before, kinds["learned"].before
        if before and of_training:
            audits = {**audits, "base": self.copying.check(together(before, of_training), asked)[0]}
        return {kind: measure.copying_facts(self.copying, audit, asked) for kind, audit in audits.items()}

    def _entries(self, kind: str, audit: Audit, near: dict[str, Nearest]) -> list[dict[str, Any]]:
        one = self.drawn.kinds[kind]
        likeness = 1 - nearest(cosine_distance(one.after.features, self.drawn.brand.features)).distance
        return [
            {
                "set": kind,
                "prompt": one.prompts.conditions["caption"][row],
                "seed": one.seeds[number],
                "before": one.pictures_before[number] if one.before else None,
                "image": one.pictures[number],
                "likeness": float(likeness[number]),
                "copying": {
                    "p": float(audit.p[number]),
                    "flagged": bool(audit.flagged[number]),
                    **{name: self._pair(name, number, pair, audit) for name, pair in near.items()},
                },
            }
            for number, row in enumerate(one.rows)
        ]

    def _pair(self, measured: str, number: int, near: Nearest, audit: Audit) -> dict[str, Any]:
        batch, relative = self.drawn.train.batch, float(near.distance[number])
        index = self.copying.indices[int(near.row[number])]
        return {
            "relative": relative,
            "near": relative < audit.thresholds[measured],
            "image": self._original(index),
            "key": batch["key"][index],
            "caption": batch["caption"][index],
        }

    def _original(self, index: int) -> str:
        if index not in self._originals:
            self._originals[index] = self.artist.album.add(self.drawn.train.picture(index))
        return self._originals[index]

    def sweep(self, rows: Sequence[Row]) -> dict[str, Any] | None:
        if len(rows) < 2:
            return None
        bar = tqdm(rows, "Comparing settings", unit="setting", mininterval=0.5, disable=None)
        measured = [self._sweep_row(row) for row in bar]
        good, chosen = sweep.undominated(measured), sweep.choose(measured)
        for index, row in enumerate(measured):
            row |= {"undominated": good[index], "chosen": index == chosen}
        return {"rows": measured, "goals": list(sweep.GOALS)}

    def _sweep_row(self, row: Row) -> dict[str, Any]:
        pipeline, kinds = row.pipeline(), self.drawn.kinds
        indices = {kind: one.few() for kind, one in kinds.items()}
        seen = {kind: one.drawn_by(self.artist, pipeline, indices[kind]) for kind, one in kinds.items()}
        check, _ = self.copying.check(together(seen["brand"], seen["learned"]), self.settings.false_alarm)
        facts = measure.copying_facts(self.copying, check, self.settings.false_alarm)
        before = kinds["general"].before if "general" in kinds else None
        return {
            "axis": row.axis,
            "value": row.value,
            "name": row.name,
            **measure.fidelity(seen["brand"], self.drawn.brand),
            "drift": measure.change(before.rows(indices["general"]), seen["general"]) if before else None,
            **{name: facts[name] for name in ("flagged", "samples", "chance")},
        }
