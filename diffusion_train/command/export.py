"""Export a run's model for other tools, and verify that it gives the same results there.

diffusers loads the export in a separate process, and a prediction and an image are compared with those of the run. If
they differ by more than `tolerance`, or if the export does not load, the command writes nothing to `out` and ends with
exit code 3.
"""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from omegaconf import DictConfig, OmegaConf

from diffusion_train import config, picture
from diffusion_train.adapter.lora import without
from diffusion_train.approval import Approvals, approvals_of
from diffusion_train.assembly import grid_prompts, load_pipeline, starts_from_run, trigger_word
from diffusion_train.command.next_commands import to_approve
from diffusion_train.config.model_changes import model_changes
from diffusion_train.export.exported_model import Model, base_folder
from diffusion_train.export.model_card import Facts, readme
from diffusion_train.export.proof import Question, Unproved, ours, prove
from diffusion_train.pretrained.diffusers_folder import weight_files
from diffusion_train.pretrained.model_license import license_of
from diffusion_train.run_folder import RunFolder, weights_file
from diffusion_train.utils.exit_code import Exit
from diffusion_train.utils.files import publish, sha256_of_files, temporary_folder, unchanged
from diffusion_train.utils.quiet import quiet_libraries
from diffusion_train.utils.tensor import best_device
from diffusion_train.utils.text import printable

SUMMARY = "export a run's model for diffusers, ComfyUI or A1111, and verify that it gives the same results"
EXAMPLE = """\
diffusion-train export run=runs/sd15_lora/<date_time> format=lora_kohya out=brand.safetensors
diffusion-train export run=runs/sd15_lora/<date_time> format=diffusers out=brand adapter.scale=0.8"""
RUN_KEYS = (
    "network",
    "conditioner",
    "autoencoder",
    "adapter",
    "diffusion",
    "sampler",
    "guidance",
    "pretrained",
    "name",
    "data.captions.trigger",
)

FORMATS = {
    "diffusers": "pipeline_folder",
    "lora_peft": "lora_peft",
    "lora_kohya": "lora_kohya",
    "single_file": "original_file",
}
UNUSUAL = """\
note: tools that know only the layers of kohya's sd-scripts silently ignore these keys and draw other images:
  {}
  adapter.targets=attention_and_convolutions trains a LoRA without them"""
ONE_FILE = ("lora_kohya", "single_file")


def run(cfg: DictConfig) -> int:
    """`cfg` is the run's config with overrides applied; this command's settings are in `cfg.export`."""

    quiet_libraries()
    ask = cfg.export
    with unchanged(weights_file(Path(ask.run))):
        approvals = approvals_of(Path(ask.run), strength(cfg))
        refuse_wrong(cfg, approvals)
        refuse_other_model(cfg)
        model = opened(cfg)
    form = importlib.import_module(f"diffusion_train.export.{FORMATS[ask.format]}")
    if getattr(form, "ADAPTERS_ONLY", False) and not model.adapters:
        raise ValueError(
            f"format={ask.format}: the run must have an adapter, but it trained all weights; give format=diffusers "
            "or format=single_file"
        )
    out, said = Path(ask.out), approvals.describe()
    try:
        with temporary_folder(out.absolute().parent) as scratch:
            exported(cfg, model, form, facts(cfg, model, said), scratch)
    except Unproved as error:
        print(f"{error}; nothing was written to {out}", file=sys.stderr)
        return Exit.NUMERICAL
    if not approvals.valid:
        print("\n".join(to_approve(cfg, run_folder(ask).path)))
    return Exit.DONE


def exported(cfg: DictConfig, model: Model, form: ModuleType, about: Facts, scratch: Path) -> None:
    """Write the export in `scratch`, compare it with the run and move it to `cfg.export.out`.

    `form` is the module of the format; `about` is for the card. Raises Unproved if the comparison fails.
    """

    ask, folder, out = cfg.export, scratch / "export", Path(cfg.export.out)
    folder.mkdir()
    question = Question(prompt(cfg), ask.proof.seed, ask.proof.num_steps, ask.proof.guidance_scale)
    inputs, outputs = ours(model, question)
    file = form.write(model, folder)
    if model.own_base and model.adapters:
        without(model.unet).save_pretrained(scratch / "unet", safe_serialization=True)
    proof = prove(model, ask.format, file, question, inputs, outputs, scratch)
    print(f"largest difference from diffusers: prediction {proof.prediction:.1e}, image {proof.image:.1e}", flush=True)
    if not proof.largest <= ask.tolerance:
        raise Unproved(f"the export differs from the run by {proof.largest:.1e}, more than tolerance={ask.tolerance:g}")
    names = (out.name, out.with_suffix(".png").name) if out.suffix == ".safetensors" else (file.name, "sample.png")
    if grid := run_folder(ask).last_samples:
        shutil.copyfile(grid, folder / "sample.png")
    else:
        picture.save_png(picture.to_image(proof.picture), folder / "sample.png", {"prompt": question.prompt})
    unusual: list[str] = form.unusual_keys(model) if hasattr(form, "unusual_keys") else []
    if unusual:
        print(UNUSUAL.format(", ".join(unusual)))
    about = replace(about, unusual_keys=unusual)
    (folder / "README.md").write_text(readme(model, ask.format, about, question, proof, names, out), "utf-8")
    publish_export(folder, file, out)
    print("\n".join(printable(line, 400) for line in about.approvals))
    print(f"wrote {ask.format} to {out}; {card_of(out)} says how to use it")


def refuse_wrong(cfg: DictConfig, approvals: Approvals) -> None:
    """Raises ConfigError with every mistake in the command's own settings."""

    ask = cfg.export
    mistakes, out = [], Path(ask.out)
    if ask.format not in FORMATS:
        mistakes.append(config.Mistake(f"format={ask.format}", "no such format", f"use {', '.join(FORMATS)}"))
    if out.suffix == ".safetensors" and ask.format in FORMATS and ask.format not in ONE_FILE:
        mistakes.append(config.Mistake(f"out={out}", f"{ask.format} writes a folder", "give the name of a folder"))
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        mistakes.append(config.Mistake(f"out={out}", "exists already", "give another name, or remove it"))
    if not ask.tolerance > 0:
        mistakes.append(config.Mistake(f"tolerance={ask.tolerance}", "must be above 0"))
    if ask.require_approval and not approvals.valid:
        remedy = " ".join(map(str.strip, to_approve(cfg, run_folder(ask).path)))
        problem = printable("; ".join(approvals.describe()), 400)
        mistakes.append(config.Mistake("require_approval=true", problem, remedy))
    config.raise_all(mistakes)


def refuse_other_model(cfg: DictConfig) -> None:
    """Raises ConfigError if an approval is required and a setting makes another model of the approved weights."""
    changed = model_changes(Path(cfg.export.run), cfg) if cfg.export.require_approval else []
    remedy = "leave them out; if the base has moved, give pretrained=<where it is now>"
    problem = "the approval is not for the run with other settings of its model"
    config.raise_all([config.Mistake(", ".join(changed), problem, remedy)] if changed else [])


def opened(cfg: DictConfig) -> Model:
    """Return the run's model and its base, with the name that the export gets."""

    pipeline = load_pipeline(Path(cfg.export.run), cfg, device=best_device())
    name = str(cfg.name) if Path(cfg.export.out).suffix != ".safetensors" else Path(cfg.export.out).stem
    return Model(pipeline, base_folder(cfg.network, pipeline.network), name, starts_from_run(cfg))


def prompt(cfg: DictConfig) -> str:
    """Return the prompt of the comparison: the setting, else the first of the sample grids, else the trigger word."""

    chosen = cfg.export.proof.prompt
    return str(chosen) if chosen is not None else (grid_prompts(cfg) or [trigger_word(cfg) or "a photo"])[0]


def strength(cfg: DictConfig) -> float | None:
    """Return the strength of the run's adapter; None if it has none."""
    scale = cfg.adapter.get("scale")
    return None if scale is None else float(scale)


def facts(cfg: DictConfig, model: Model, approvals: list[str]) -> Facts:
    """Return what the model card says about the run, its data and its base model."""

    plain = {key: value for key, value in config.redact(cfg).items() if key != "export"}
    data = run_folder(cfg.export).data
    sha256 = cfg.get("base_record", {}).get("sha256")
    templates = OmegaConf.select(cfg, "data.captions.templates") or []
    return Facts(
        base=str(cfg.pretrained or cfg.network.model),
        base_sha256=str(sha256 or sha256_of_files(weight_files(model.base, str(model.base)))),
        base_license=OmegaConf.select(cfg, "base_record.license") or license_of(model.base),
        data=json.loads(data.read_text("utf-8")) if data.is_file() else {},
        trigger=trigger_word(cfg),
        templates=[str(template) for template in templates],
        config=plain,
        approvals=approvals,
    )


def run_folder(ask: DictConfig) -> RunFolder:
    run = Path(ask.run)
    return RunFolder(run if run.is_dir() else run.parent)


def publish_export(folder: Path, file: Path, out: Path) -> None:
    """Move the finished export to `out`, for a single file with its card and its image beside it."""
    if out.suffix != ".safetensors":
        publish(folder, out)
        return
    publish(folder / "README.md", card_of(out))
    publish(folder / "sample.png", out.with_suffix(".png"))
    publish(file, out)


def card_of(out: Path) -> Path:
    return out.with_suffix(".md") if out.suffix == ".safetensors" else out / "README.md"
