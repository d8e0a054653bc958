"""Settings that a run chooses: sizes of the data that are null, by the images, and `auto`, by the network."""

from __future__ import annotations

import copy

from omegaconf import DictConfig, OmegaConf

# The largest value chosen for each of them. It is the same on every machine, so that runs can be compared.
MOST = {"image_size": 64, "batch_size": 16}


def left_open(cfg: DictConfig) -> list[str]:
    """Return the names of the sizes that are null."""
    data = cfg.get("data")
    return [name for name in MOST if isinstance(data, DictConfig) and name in data and data[name] is None]


def with_stand_ins(cfg: DictConfig) -> DictConfig:
    """Return a copy of the config with values in place of those that are chosen later, so that types can be checked."""
    whole = copy.deepcopy(cfg)
    for name in left_open(cfg):
        whole.data[name] = MOST[name]
    if OmegaConf.select(cfg, "trainer.precision") == "auto":
        whole.trainer.precision = "32-true"
    return whole
