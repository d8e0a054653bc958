"""The model card of an export: its base model, licences, training data, and the comparison with diffusers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from markupsafe import Markup

from diffusion_train.data.shard.authors import asks_for_author
from diffusion_train.export.exported_model import Model
from diffusion_train.export.lora_peft import rank_and_alpha
from diffusion_train.export.proof import Proof, Question
from diffusion_train.page import card
from diffusion_train.rights.license import normalise, terms


@dataclass(frozen=True)
class Facts:
    """Facts about a run for its model card. `data` is its data.json, `config` its redacted config.

    `approvals` are the lines that say who approved its images. `unusual_keys` are those that some tools ignore.
    """

    base: str
    base_sha256: str
    base_license: str | None
    data: dict[str, Any]
    trigger: str
    templates: list[str]
    config: dict[str, Any]
    approvals: Sequence[str]
    unusual_keys: Sequence[str] = ()


class Credit(NamedTuple):
    """The authors to name for one licence, and the number of its images without an author on record."""

    license: str
    authors: list[str]
    unnamed: int


def readme(
    model: Model, form: str, facts: Facts, ask: Question, proof: Proof, names: tuple[str, str], out: Path
) -> str:
    """Return the text of README.md; `names` are those of the export's file or folder and of its image."""
    base = _base_name(facts.base)
    on_hub = re.fullmatch(r"([\w.-]+/[\w.-]+)(@.*)?", base)
    rank, alpha = rank_and_alpha(model) if model.adapters else (None, None)
    licenses = facts.data.get("licenses") or {}
    open_terms = [name for name in licenses if terms(normalise(name))]
    config = yaml.safe_dump(_without_paths(facts.config), sort_keys=False, allow_unicode=True)
    return card(
        "diffusion_train.export",
        "model_card.md",
        model=model,
        form=form,
        facts=facts,
        ask=ask,
        proof=proof,
        base=base,
        hub_base=on_hub and on_hub[1],
        thing="LoRA" if form.startswith("lora") else "model",
        license=facts.base_license if licenses and not open_terms else None,
        open_terms=open_terms,
        credits=list(_credits(facts.data)),
        rank=rank,
        alpha=alpha,
        file=names[0],
        stem=Path(names[0]).stem,
        image=names[1],
        folder=out.parent.name or "." if out.suffix == ".safetensors" else out.name,
        shards=[shard for shard in facts.data.get("shards") or [] if isinstance(shard, dict)],
        config=Markup(config),
        fence=Markup("`" * max(3, 1 + max(map(len, re.findall("`+", config)), default=0))),
    )


def _credits(data: dict[str, Any]) -> Iterator[Credit]:
    authors = data.get("authors") or {}
    for license, amount in (data.get("licenses") or {}).items():
        if asks_for_author(license):
            named: dict[str, int] = authors.get(license) or {}
            yield Credit(license, list(named), amount - sum(named.values()))


def _without_paths(node: Any) -> Any:
    """Return a config node without the paths of the training machine, which are private."""
    if isinstance(node, dict):
        return {key: _without_paths(value) for key, value in node.items() if key != "run_dir"}
    if isinstance(node, list):
        return [_without_paths(value) for value in node]
    return f".../{Path(node).name}" if isinstance(node, str) and node.startswith(("/", "~")) else node


def _base_name(base: str) -> str:
    """Return the name of a model of the hub unchanged, and only the last part of a path."""
    is_path = base.startswith(("/", ".", "~")) or Path(base).exists()
    return Path(base).name if is_path else base
