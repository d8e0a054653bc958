"""Settings of the data that may be null in a config; they are chosen when the images are known."""

from __future__ import annotations

import copy

from omegaconf import DictConfig

# The largest value chosen for each of them. It is the same on every machine, so that runs can be compared.
MOST = {"image_size": 64, "batch_size": 16}


def left_open(cfg: DictConfig) -> list[str]:
    """Return the names of those that are null."""
    data = cfg.get("data")
    return [name for name in MOST if isinstance(data, DictConfig) and name in data and data[name] is None]


def with_stand_ins(cfg: DictConfig) -> DictConfig:
    """Return a copy of the config with numbers in place of null, so that types can be checked."""
    whole = copy.deepcopy(cfg)
    for name in left_open(cfg):
        whole.data[name] = MOST[name]
    return whole
