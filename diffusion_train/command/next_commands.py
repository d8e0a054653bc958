"""The commands to run next, which a command prints when it is done. The user replaces what is in <...>."""

from __future__ import annotations

import shlex
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from diffusion_train import config
from diffusion_train.approval import approve_command
from diffusion_train.assembly import grid_prompts, is_adapted, trigger_word
from diffusion_train.config.command_line.arguments import given
from diffusion_train.run_folder import RunFolder
from diffusion_train.utils.text import argument

_OF_DATA = ("data", "pretrained", "base")  # what `check` shares with training
_OF_ENCODE = ("out", "encode_batch_size", "data.encoded")  # what `encode` does not
_OF_MODEL = ("pretrained", "adapter.scale")  # what may differ from the run


def after_check(cfg: DictConfig) -> list[str]:
    """Train on the data that was checked; with Stable Diffusion, encode it first."""
    words = given(lambda key: key.split(".")[0] in _OF_DATA)
    if not cfg.pretrained:
        recipe = [] if cfg.conditioner._target_.endswith(".NoCondition") else ["experiment=own_images_with_text"]
        return _lines("train on it:", "python train.py", *recipe, *words)
    train = _lines("train on it:", "python train.py experiment=brand", *words)
    if cfg.base_record.kind == "run":
        return train
    encode = ["diffusion-train encode experiment=brand", *words, "out=encoded"]
    first = _lines("compute its latents and text embeddings once, for faster training:", *encode)
    return [*first, f"or {train[0]}", train[1]]


def after_encode(out: Path) -> list[str]:
    words = given(lambda key: key not in _OF_ENCODE)
    return _lines("train on them:", "python train.py", *words, argument("data.encoded", out))


def after_training(cfg: DictConfig, run: Path) -> list[str]:
    return _lines("sample from it:", sample_command(cfg, run))


def after_sampling(cfg: DictConfig, run: Path) -> list[str]:
    """Export a run on Stable Diffusion; other tools know no other networks."""
    if not _is_exportable(cfg):
        return []
    formats = "diffusers, single_file, lora_peft, lora_kohya" if is_adapted(cfg) else "diffusers, single_file"
    command = _on_run("export", cfg, run, "format=diffusers", "out=<folder>")
    return _lines(f"use it in other tools; format can be {formats}:", command)


def to_approve(cfg: DictConfig, run: Path) -> list[str]:
    """Write the report, or approve the run if it has one."""
    folder = RunFolder(run)
    if not folder.report.is_file():
        return _lines("to have it approved, write its report:", _on_run("report", cfg, run))
    return _lines(f"to approve it, save marks in {folder.report_page}, then run:", approve_command(run))


def after_approval(cfg: DictConfig, run: Path) -> list[str]:
    """Export a run on Stable Diffusion."""
    if not _is_exportable(cfg):
        return []
    return _lines("export what is approved:", _on_run("export", cfg, run, "require_approval=true", "out=<folder>"))


def sample_command(cfg: DictConfig, run: Path) -> str:
    words, word = ["python", "sample.py", argument("run", run)], trigger_word(cfg)
    prompts = [prompt for prompt in grid_prompts(cfg) if prompt]
    if not any(word in prompt for prompt in prompts):
        prompts = [*([word] if word else []), *prompts]
    if chosen := prompts[:3]:
        listed = ", ".join('"' + prompt.replace('"', '\\"') + '"' for prompt in chosen)
        words.append(shlex.quote(f"prompts=[{listed}]"))
    return " ".join([*words, "num_samples=4"])


def _on_run(command: str, cfg: DictConfig, run: Path, *words: str) -> str:
    """Return a command on a run, with the settings of its model that `cfg` has and the run has not."""
    own = config.load_run_config(run)
    values = {key: OmegaConf.select(cfg, key) for key in _OF_MODEL}
    changed = [argument(key, value) for key, value in values.items() if value != OmegaConf.select(own, key)]
    return " ".join(["diffusion-train", command, argument("run", run), *changed, *words])


def _is_exportable(cfg: DictConfig) -> bool:
    return str(cfg.network._target_).endswith(".DiffusersUNet") and isinstance(cfg.network.get("model"), str)


def _lines(heading: str, *words: str) -> list[str]:
    return [heading, f"  {' '.join(words)}"]
