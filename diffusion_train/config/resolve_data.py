"""Settings that a run chooses once: image size and batch size, from the images if they are null in a config.

A resumed run keeps them, and the other settings that are chosen by measuring its network (`diffusion_train.choices`).

`diffusion_train.config` does not export this module: reading data loads torch, and mistakes are reported before that.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig, open_dict

from diffusion_train.config.mistakes import ConfigError, Mistake
from diffusion_train.config.open_settings import MOST, left_open, with_stand_ins
from diffusion_train.config.run import load_run_config
from diffusion_train.config.targets import build, locate
from diffusion_train.data.data_settings import ShardData
from diffusion_train.data.dataset import ShardDataset
from diffusion_train.training.checkpoint.checkpoint_file import read_facts
from diffusion_train.utils.process.launcher import first_process

_DIVISOR = 8  # every network of the package accepts image sizes that are multiples of it
_NUM_CAPTIONS = 256  # read to find out whether there are captions


class Sizes(NamedTuple):
    """Image size (pixels a side) and batch size."""

    image_size: int
    batch_size: int


def resolve_data(cfg: DictConfig) -> None:
    """Make `data.folder` absolute, and set image size and batch size if they are null.

    A resumed run keeps the values that it began with. Raises ValueError if the data cannot be read.
    """
    if folder := cfg.data.get("folder"):
        cfg.data.folder = str(Path(folder).expanduser().absolute())  # the run may be opened from another directory
    names = left_open(cfg)
    if not names:
        return
    before = _began_with(cfg).get("data", {})
    values = {name: before[name] for name in MOST if isinstance(before.get(name), int)}
    if not set(names) <= values.keys():
        values = _chosen(cfg)._asdict() | values
    with open_dict(cfg):
        for name in names:
            cfg.data[name] = values[name]


def keep_choices(cfg: DictConfig) -> None:
    """Set `trainer.precision` and `compile`, if they are auto, to what a resumed run has chosen."""
    for node, name in ((cfg.trainer, "precision"), (cfg, "compile")):
        if node.get(name) == "auto":
            before = _began_with(cfg)
            node[name] = (before.get("trainer") or {} if name == "precision" else before).get(name, "auto")


def sizes_for(sides: NDArray[np.int64], num_samples: int) -> Sizes:
    """Choose sizes for `num_samples` images of `sides` (n, 2), width and height in pixels.

    The image size is the median shorter side, the batch size the largest power of two within the number of images; both
    are at most those in MOST.
    """
    side = int(np.median(sides.min(1)))
    image_size = min(max(side // _DIVISOR, 1) * _DIVISOR, MOST["image_size"])
    return Sizes(image_size, min(1 << (num_samples.bit_length() - 1), MOST["batch_size"]))


def _chosen(cfg: DictConfig) -> Sizes:
    """Return sizes that fit the training images, and print them. Raises ConfigError if they cannot be measured."""
    data = build(with_stand_ins(cfg).data)
    if not isinstance(data, ShardData):
        remedy = "add data.image_size=<pixels> data.batch_size=<samples>"
        raise ConfigError([Mistake("data", "sizes can only be chosen from images in indexed shards", remedy)])
    with _silence("diffusion_train.data"):  # the data module that training builds gives the same warnings
        images = data.dataset()
    sizes = sizes_for(images.sizes(), len(images))
    if first_process():
        chosen = ", ".join(f"data.{name}={getattr(sizes, name)}" for name in left_open(cfg))
        about = _about_captions(cfg, images)
        print(f"{cfg.name}: {len(images):,} images; chose {chosen}; {about}", file=sys.stderr)
    return sizes


def _about_captions(cfg: DictConfig, images: ShardDataset) -> str:
    has_captions = any(caption.strip() for caption in islice(images.captions(), _NUM_CAPTIONS))
    reads_captions = getattr(locate(cfg.conditioner["_target_"]), "reads_captions", True)
    if has_captions == reads_captions:
        return "training uses their captions" if has_captions else "they have no captions"
    if has_captions:
        return "training ignores their captions; experiment=own_images_with_text uses them"
    return "they have no captions; experiment=own_images trains without captions"


def _began_with(cfg: DictConfig) -> Mapping[str, Any]:
    """Return the config of the run that `cfg` resumes; empty if no run is resumed."""
    if cfg.resume == "never":
        return {}
    try:
        if cfg.resume == "auto":
            return load_run_config(Path(cfg.run_dir))
        before: Mapping[str, Any] = read_facts(Path(cfg.resume))["config"]
    except (OSError, ValueError):  # nothing to resume; if there should be, the command reports it
        return {}
    return before


@contextmanager
def _silence(name: str) -> Iterator[None]:
    """Suppress warnings of the loggers below `name`."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
