"""Sample from a trained model."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch import Tensor

from diffusion_train import config, picture
from diffusion_train.assembly import idle_guidance, load_pipeline, reads, without_trigger
from diffusion_train.command.next_commands import after_sampling
from diffusion_train.data.caption.prompt_list import read_prompts
from diffusion_train.data.image.collate import collate
from diffusion_train.data.image.decode import decode_image
from diffusion_train.data.image.header import ImageError
from diffusion_train.network.layout import set_memory_format
from diffusion_train.pipeline import Pipeline, select_rows
from diffusion_train.run_folder import weights_file
from diffusion_train.utils.exit_code import Exit
from diffusion_train.utils.files import unchanged
from diffusion_train.utils.quiet import quiet_libraries
from diffusion_train.utils.tensor import best_device

SUMMARY = "sample images from a run"
EXAMPLE = """python sample.py run=runs/openmoji/<date_time> prompts='["a red apple"]' num_samples=4 guidance.scale=3"""
RUN_KEYS = (
    "network",
    "conditioner",
    "autoencoder",
    "adapter",
    "diffusion",
    "sampler",
    "guidance",
    "pretrained",
    "channels_last",
    "name",
    "data.image_size",
    "data.background",
    "data.crop",
)


def run(cfg: DictConfig) -> int:
    """`cfg` is the run's config with overrides applied; this command's settings are in `cfg.sample`."""
    quiet_libraries()
    ask = cfg.sample
    refuse(cfg)
    file = weights_file(Path(ask.run))
    conditions = read_conditions(cfg)
    if warning := without_trigger(cfg, read_prompts(ask.prompts), "prompts"):
        warnings.warn(warning, stacklevel=1)
    negative_prompt = read_negative_prompt(cfg)
    rows = [row for row in range(len(conditions["caption"])) for _ in range(ask.num_samples)]
    refuse_older(Path(ask.out), file_names(len(rows), ask.num_samples))
    with unchanged(file) as sha256:
        pipeline = opened(cfg)
    seeds = [ask.seed + number % ask.num_samples for number in range(len(rows))]
    samples = pipeline.sample(seeds, select_rows(conditions, rows), ask.batch_size, negative_prompt)
    facts = {
        "run": str(cfg.name),
        "weights": sha256[:16],
        "sampler": f"{describe(cfg.sampler)} grid={describe(cfg.sampler.grid)}"
        if "grid" in cfg.sampler
        else describe(cfg.sampler),
        "guidance": describe(cfg.guidance),
        **({} if negative_prompt is None else {"negative_prompt": negative_prompt}),
    }
    prompts = [conditions["caption"][row] for row in rows]
    write(samples, list(zip(prompts, seeds, strict=True)), ask.num_samples, facts, Path(ask.out))
    if then := after_sampling(cfg, Path(ask.run)):
        print("\n".join(then))
    return Exit.DONE


def opened(cfg: DictConfig) -> Pipeline:
    """Return the run's pipeline, whose network has the memory format of training."""
    pipeline = load_pipeline(Path(cfg.sample.run), cfg, device=best_device())
    set_memory_format(pipeline.network, channels_last=cfg.channels_last, compile=False)
    return pipeline


def refuse(cfg: DictConfig) -> None:
    """Raises ConfigError with every mistake in the command's own settings."""
    ask = cfg.sample
    mistakes = config.too_small(ask, num_samples=1, batch_size=1, seed=0)
    mistakes += [*config.unwritable("out", Path(ask.out)), *idle_guidance(cfg)]
    mistakes += [
        config.Mistake(f"{name}={ask[name]}", f"this run's conditioner reads no {what}", "leave it out")
        for name, what in (("prompts", "captions"), ("negative_prompt", "captions"), ("images", "images"))
        if ask[name] and ask[name] != [""] and not reads(cfg, what)
    ]
    if reads(cfg, "images"):
        absent = [file for file in image_files(ask) if not file.is_file()]
        mistakes += [config.Mistake(f"images={file}", "no such file", "give an image file") for file in absent]
    config.raise_all(mistakes)


def image_files(ask: DictConfig) -> list[Path]:
    return [Path(file).expanduser() for file in ([ask.images] if isinstance(ask.images, str) else ask.images)]


def refuse_older(out: Path, names: list[str]) -> None:
    """Raises ValueError if `out` contains samples of an earlier command that this one would not overwrite."""
    older = sorted({path.name for path in out.glob("[0-9][0-9][0-9][0-9]_[0-9][0-9][0-9].png")} - set(names))
    if older:
        raise ValueError(
            f"out={out} holds samples of another command ({', '.join(older[:3])}{', ...' * (len(older) > 3)}); "
            "give another out, or delete it"
        )


def read_conditions(cfg: DictConfig) -> dict[str, Any]:
    """Return a batch with one row for each prompt or image, or a single row if there are neither.

    Raises ValueError if there are both, but not one prompt for each image.
    """
    prompts, images = read_prompts(cfg.sample.prompts), image_files(cfg.sample)
    if not images:
        return {"caption": prompts or [""]}
    if prompts and len(prompts) != len(images):
        raise ValueError(
            f"prompts must have one entry for each of the {len(images)} images, got {len(prompts)}; give that many, or "
            "none"
        )
    data = OmegaConf.merge(cfg.data, {"shards": ""})  # the shards are not read and may be missing
    transform = config.build(data).transform()
    captions = prompts or [image.stem for image in images]
    pictures = [decoded(image, transform.background) for image in images]
    return collate(
        [{**transform(picture, 0, 0), "caption": caption} for picture, caption in zip(pictures, captions, strict=True)]
    )


def decoded(file: Path, background: Sequence[int] | None) -> Image.Image:
    """Raises ValueError that names the file if it cannot be read or is no image."""
    try:
        return decode_image(file.read_bytes(), background)
    except (OSError, ImageError) as error:
        problem = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"images={file}: {problem}; give a file that can be read, such as a PNG or JPEG") from error


def read_negative_prompt(cfg: DictConfig) -> str | None:
    """Return the negative prompt, or None.

    Raises ValueError if guidance is off, because the prompt would have no effect.
    """
    prompt = cfg.sample.negative_prompt
    if prompt is not None and cfg.guidance.get("scale", 1) == 1:
        raise ValueError(
            f"negative_prompt={prompt}: has no effect because guidance is off; add guidance=classifier_free "
            "guidance.scale=3"
        )
    return None if prompt is None else str(prompt)


def describe(node: DictConfig) -> str:
    """Describe a part in one line: its class and its plain settings."""
    plain = {str(key): value for key, value in node.items() if isinstance(value, (int, float, str))}
    settings = [f"{key}={value}" for key, value in plain.items() if not key.startswith("_")]
    return " ".join([str(node["_target_"]).rsplit(".", 1)[-1], *settings])


def file_names(count: int, num_samples: int) -> list[str]:
    return [f"{number // num_samples:04d}_{number % num_samples:03d}.png" for number in range(count)]


def write(samples: Tensor, rows: list[tuple[str, int]], num_samples: int, facts: dict[str, str], out: Path) -> None:
    """Write a PNG for each sample, named in the order of the prompts, and a grid of all; points become one plot."""
    if samples.shape[1:] == (2,):
        picture.save_png(picture.scatter(samples, samples[:0], facts["run"]), out / "grid.png")
        print(out / "grid.png")
        return
    for name, x, (prompt, seed) in zip(file_names(len(rows), num_samples), samples, rows, strict=True):
        picture.save_png(picture.to_image(x), out / name, {"prompt": prompt, "seed": str(seed), **facts})
    grid = picture.grid(samples, [prompt for prompt, _ in rows], num_columns=num_samples)
    picture.save_png(grid, out / "grid.png", facts)
    print(f"wrote {len(samples)} samples to {out}, and a grid of them to {out / 'grid.png'}")
