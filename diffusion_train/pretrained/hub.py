"""Downloads models from the Hugging Face hub: only data files, never code or pickles."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

DESCRIPTION = ("*.json", "*.txt")
EVERYTHING = (*DESCRIPTION, "*.model", "*.safetensors", "README.md")  # the last one states the licence
PIPELINE = (*DESCRIPTION, "*/*.safetensors", "README.md")  # without the same model as a single file beside its parts
VARIANTS = ("*.fp16*", "*.bf16*")  # weights of less precision
_LEFT_OUT = (*VARIANTS, "*.non_ema.*", "safety_checker/*", "feature_extractor/*", "*flax*")
_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def is_name(source: str) -> bool:
    """Return whether this has the form `owner/name` or `owner/name@revision`."""
    return bool(_NAME.fullmatch(source.partition("@")[0]))


def snapshot(source: str, key: str, patterns: Sequence[str], left_out: Sequence[str] = _LEFT_OUT) -> Path:
    """Download the files of `source` (owner/name[@revision]) that match `patterns`; return the local folder.

    The folder is named by the commit. Raises ValueError, which names `key`, if the download fails.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    name, _, revision = source.partition("@")
    try:
        folder = snapshot_download(
            name, revision=revision or None, allow_patterns=list(patterns), ignore_patterns=list(left_out)
        )
    except (OSError, HFValidationError) as error:
        raise ValueError(f"{key}={source}: {_reason(error, name, revision)}") from error
    return Path(folder)


def add_variants(source: str, key: str, folder: Path, parts: Sequence[str]) -> None:
    """Download the variants of those `parts` in the snapshot `folder` that have no other weights."""
    lacking = [
        f"{part}/" if part else ""
        for part in parts
        if (folder / part / "config.json").is_file() and not list((folder / part).glob("*.safetensors"))
    ]
    if lacking:
        exact = f"{source.partition('@')[0]}@{folder.name}"
        snapshot(exact, key, [f"{part}{kind}" for part in lacking for kind in VARIANTS], ["*.bin"])


def commit(folder: Path) -> str | None:
    """Return the commit by which `snapshot` named a folder, or None for another folder."""
    return folder.name if re.fullmatch(r"[0-9a-f]{40}", folder.name) else None


def _reason(error: Exception, name: str, revision: str) -> str:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, RevisionNotFoundError):
        return (
            f"{name} on the hub has no revision {revision}; leave the revision out, or give an existing branch, tag or "
            "commit"
        )
    if isinstance(error, GatedRepoError):
        return f"the hub requires that you accept the terms of {name}; accept them there, then run: hf auth login"
    if isinstance(error, RepositoryNotFoundError):
        return f"neither a local folder nor a model of the hub that you can access; see https://huggingface.co/{name}"
    at = f" --revision {revision}" if revision else ""
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return (
        f"no such local folder, and the hub cannot be reached ({first}); on a machine with access to it, run\n"
        f"      hf download {name}{at} --local-dir <folder>\n    and give that folder"
    )
