"""The model card of an export: what it stands on, under which rights, what it was trained on, and the proof."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from diffusion_train.export.exported_model import Model
from diffusion_train.export.proof import Proof, Question
from diffusion_train.utils.text import shown


@dataclass(frozen=True)
class Facts:
    """Of a run. `data` is its data.json, `config` its redacted config."""

    base: str
    base_sha256: str
    base_license: str | None
    data: dict[str, Any]
    trigger: str
    templates: list[str]
    config: dict[str, Any]


def readme(
    model: Model, form: Any, facts: Facts, ask: Question, proof: Proof, names: tuple[str, str], out: Path
) -> str:
    """`names` are those of the export's file or folder and of its image."""
    base = _base_name(facts.base)
    used = {
        "base": base,
        "place": out.parent.name or "." if out.suffix == ".safetensors" else out.name,
        "file": names[0],
        "stem": Path(names[0]).stem,
        "pipeline": {"sd": "StableDiffusionPipeline", "sdxl": "StableDiffusionXLPipeline"}[model.family],
        "prompt": _code(ask.prompt),
    }
    use = re.sub(r"\{(\w+)\}", lambda match: used[match[1]], form.USE)
    parts = [
        _front_matter(model, facts, base),
        f"# {_text(model.name)}",
        f"{_what(model)} `{_code(base)}`, trained with diffusion_train.",
        f"![samples]({names[1]})",
        "## Use",
        use,
        *_words(facts),
        "## Proof",
        _proof(ask, proof),
        "## Rights",
        *_rights(facts),
        "## Training",
        *_training(facts),
    ]
    return "\n\n".join(parts) + "\n"


def _what(model: Model) -> str:
    if not model.adapters:
        return "All weights of a U-Net on the base"
    layer = next(iter(model.adapters.values()))
    rank = layer.r["default"]
    parts = {0: "U-Net", 1: "U-Net and text encoder", 2: "U-Net and both text encoders"}[len(model.text_encoders)]
    return f"A LoRA of rank {rank}, alpha {layer.scaling['default'] * rank:g}, of {parts} on the base"


def _proof(ask: Question, proof: Proof) -> str:
    return (
        "diffusers loaded this export in a process of its own. Against the run's own pipeline, in float32, the largest "
        f"difference of a prediction is {proof.prediction:.1e}, and of an image, whose channels lie in [0, 1], "
        f"{proof.image:.1e} (`{_code(ask.prompt)}`, {ask.num_steps} steps of DDIM, guidance {ask.guidance:g}, seed "
        f"{ask.seed})."
    )


def _front_matter(model: Model, facts: Facts, base: str) -> str:
    head: dict[str, Any] = {
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": ["text-to-image", "diffusion_train", *(["lora"] if model.adapters else [])],
    }
    if match := re.fullmatch(r"([\w.-]+/[\w.-]+)(@.*)?", base):
        head["base_model"] = match[1]
    if facts.base_license:
        head["license"] = facts.base_license
    if facts.trigger:
        head["instance_prompt"] = facts.trigger
    return f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---"


def _words(facts: Facts) -> Iterator[str]:
    if facts.trigger:
        yield "## Words"
        yield f"Trigger: `{_code(facts.trigger)}`. Captions in training: " + ", ".join(
            f"`{_code(template)}`" for template in facts.templates
        )


def _rights(facts: Facts) -> Iterator[str]:
    yield (
        f"Base model: `{_code(_base_name(facts.base))}`, SHA-256 of its weights `{facts.base_sha256}`, licence "
        f"{_text(facts.base_license or '') or '**unknown**: its files say nothing of it'}. Its terms hold for what is made of it."
    )
    licenses = facts.data.get("licenses") or {}
    if not licenses:
        yield "Training images: the run's data.json names no licences."
        return
    rows = [f"| {_text(name)} | {int(count):,} |" for name, count in licenses.items()]
    yield "\n".join(["| licence of training images | images |", "|---|---:|", *rows])


def _training(facts: Facts) -> Iterator[str]:
    data = facts.data
    if data:
        sources = ", ".join(f"{_text(name)} ({count})" for name, count in (data.get("sources") or {}).items())
        yield (
            f"{data.get('samples', 0):,} samples, {data.get('held_out', 0):,} held out; fingerprint "
            f"`{_code(str(data.get('fingerprint', '')))}`" + (f"; sources: {_text(sources)}" if sources else "") + "."
        )
    if shards := [shard for shard in data.get("shards") or [] if isinstance(shard, dict)]:
        rows = [f"| {_text(Path(str(s['shard'])).name)} | `{_code(str(s.get('digest', '')))}` |" for s in shards[:100]]
        more = [f"| and {len(shards) - 100} more | |"] if len(shards) > 100 else []
        yield "\n".join(["| shard | digest of its index |", "|---|---|", *rows, *more])
    text = yaml.safe_dump(_without_places(facts.config), sort_keys=False, allow_unicode=True)
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    yield f"<details><summary>Configuration</summary>\n\n{fence}yaml\n{text}{fence}\n\n</details>"


def _without_places(node: Any) -> Any:
    """Where files lie on the machine of the training is nobody's business."""
    if isinstance(node, dict):
        return {key: _without_places(value) for key, value in node.items() if key != "run_dir"}
    if isinstance(node, list):
        return [_without_places(value) for value in node]
    return f".../{Path(node).name}" if isinstance(node, str) and node.startswith(("/", "~")) else node


def _base_name(base: str) -> str:
    """A model of the hub as it is; of a path its last part alone."""
    is_path = base.startswith(("/", ".", "~")) or Path(base).exists()
    return Path(base).name if is_path else base


def _text(text: str) -> str:
    """Strangers' words: nothing of them is Markdown or HTML here."""
    plain = html.escape(shown(" ".join(str(text).split()), 300))
    return re.sub(r"([\\`*_\[\]|#!])", r"\\\1", plain)


def _code(text: str) -> str:
    return shown(" ".join(str(text).split()), 300).replace("`", "'").replace('"', "'")
