"""Settings of the data that a config may leave open by null, until the images are known."""

from __future__ import annotations

import copy

from omegaconf import DictConfig

# The most that is chosen for each of them, on every machine, so that runs compare.
MOST = {"image_size": 64, "batch_size": 16}


def left_open(cfg: DictConfig) -> list[str]:
    """Those of them that are null."""
    data = cfg.get("data")
    return [name for name in MOST if isinstance(data, DictConfig) and name in data and data[name] is None]


def with_stand_ins(cfg: DictConfig) -> DictConfig:
    """A copy of the config in which a number stands for what is left open, so that types can be compared."""
    whole = copy.deepcopy(cfg)
    for name in left_open(cfg):
        whole.data[name] = MOST[name]
    return whole
