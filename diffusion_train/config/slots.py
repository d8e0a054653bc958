"""The targets that a config may name, by slot: those that the files in conf/ name, at the keys where they name them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

from diffusion_train.config.folders import conf_folder, read_yaml

Slot = tuple[str, ...]  # the names of a dotted key; "*" is the name of an entry that users name

HYDRA_KEYS = frozenset(["_args_", "_convert_", "_partial_", "_recursive_"])  # they change how a target is called

# Their entries have any name, and each may be what conf has in any of them.
_COLLECTIONS = [("callbacks",), ("conditioner", "parts"), ("data", "aligned"), ("logger",)]
# Targets without a file in conf: what `pretrained` brings, and parts of torch and Lightning that write no files.
_BESIDE_CONF = {
    ("callbacks", "*"): [
        f"pytorch_lightning.callbacks.{name}"
        for name in ("DeviceStatsMonitor", "EarlyStopping", "LearningRateMonitor", "ModelSummary", "Timer")
    ],
    ("optimizer",): [f"torch.optim.{name}" for name in ("Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "SGD")],
    ("sampler", "grid"): [
        f"diffusion_train.sampler.grid.{name}" for name in ("BySampler", "Leading", "Linspace", "Trailing")
    ],
    ("trainer", "strategy"): ["pytorch_lightning.strategies.DDPStrategy"],
}
# The class that a slot needs, for parts of other packages. Slots that are missing here accept any class.
BASES = {
    ("autoencoder",): "diffusion_train.autoencoder.base.Autoencoder",
    ("callbacks", "*"): "pytorch_lightning.Callback",
    ("callbacks", "*", "every"): "diffusion_train.callbacks.scheduled.Every",
    ("callbacks", "*", "extractor"): "diffusion_train.metric.extractor.Extractor",
    ("conditioner",): "diffusion_train.conditioner.base.Conditioner",
    ("conditioner", "encoder"): "diffusion_train.conditioner.text.encoder.TextEncoder",
    ("data",): "diffusion_train.data.data_settings.DataSettings",
    ("diffusion", "parameterization"): "diffusion_train.diffusion.parameterization.Parameterization",
    ("diffusion", "schedule"): "diffusion_train.diffusion.schedule.base.Schedule",
    ("diffusion", "time_sampler"): "diffusion_train.diffusion.time_sampler.TimeSampler",
    ("diffusion", "weighting"): "diffusion_train.diffusion.weighting.Weighting",
    ("guidance",): "diffusion_train.guidance.base.Guidance",
    ("logger", "*"): "pytorch_lightning.loggers.Logger",
    ("network",): "torch.nn.Module",
    ("sampler",): "diffusion_train.sampler.base.Sampler",
    ("sampler", "grid"): "diffusion_train.sampler.grid.Grid",
    ("trainer",): "pytorch_lightning.Trainer",
    ("trainer", "strategy"): "pytorch_lightning.strategies.DDPStrategy",
}


class Slots(NamedTuple):
    """What conf has at its keys."""

    targets: dict[Slot, frozenset[str]]
    hydra_keys: dict[Slot, frozenset[str]]  # such as `_partial_`
    keys: dict[Slot, frozenset[str]]  # the settings that conf has there
    same: dict[Slot, Slot]  # key -> the slot that it holds another part of, as `sampler: ${sampler}` in a callback

    def find(self, names: tuple[str, ...]) -> Slot:
        """Return the slot at the dotted key of `names`; it has no targets if the key is for data."""
        slot: Slot = ()
        for name in names:
            slot = (*slot, "*" if slot in _COLLECTIONS and not name.startswith("[") else name)
            slot = self.same.get(slot, slot)
        return slot


@cache
def slots() -> Slots:
    """Read conf/, of the package alone: a user's folder of YAML files adds nothing."""
    named = {slot: set(names) for slot, names in _BESIDE_CONF.items()}
    hydra_keys: dict[Slot, set[str]] = {}
    keys: dict[Slot, set[str]] = {}
    references: dict[Slot, Slot] = {}
    for slot, node in _nodes():
        keys.setdefault(slot, set()).update(map(str, node))
        if "_target_" in node:
            named.setdefault(slot, set()).add(node["_target_"])
            hydra_keys.setdefault(slot, set()).update(HYDRA_KEYS & node.keys())
        for key, value in node.items():
            if isinstance(value, str) and (name := re.fullmatch(r"\$\{([\w.]+)\}", value)):
                references[_named((*slot, key))] = tuple(name[1].split("."))
    same = {slot: other for slot, other in references.items() if other in named}
    same |= {("conditioner", "parts", "*"): ("conditioner",)}
    same |= {("diffusion", "time_sampler", "time_sampler"): ("diffusion", "time_sampler")}
    same |= {("sampler", "grid", part): ("sampler", "grid") for part in ("single_step", "multistep", "euler", "model")}
    return Slots(_frozen(named), _frozen(hydra_keys), _frozen(keys), same)


def _nodes() -> Iterator[tuple[Slot, dict[str, Any]]]:
    """Yield (slot, mapping) of every mapping in the files of conf/."""
    folder = conf_folder()
    for file in sorted(folder.rglob("*.yaml")):
        text = file.read_text("utf-8")
        is_global = text.startswith("# @package _global_")
        yield from _below(() if is_global else file.parent.relative_to(folder).parts, read_yaml(text))


def _below(slot: Slot, node: Any) -> Iterator[tuple[Slot, dict[str, Any]]]:
    if isinstance(node, dict):
        yield slot, node
        for key, value in node.items():
            yield from _below(_named((*slot, key)), value)


def _named(slot: Slot) -> Slot:
    return (*slot[:-1], "*") if slot[:-1] in _COLLECTIONS else slot


def _frozen(sets: dict[Slot, set[str]]) -> dict[Slot, frozenset[str]]:
    return {slot: frozenset(values) for slot, values in sets.items()}
