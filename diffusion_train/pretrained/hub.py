"""Models of the Hugging Face hub: data files alone, never code, never pickles."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

DESCRIPTION = ("*.json", "*.txt")
EVERYTHING = (*DESCRIPTION, "*.model", "*.safetensors", "README.md")  # the last says the licence
_LEFT_OUT = ("*.fp16.*", "*.non_ema.*", "safety_checker/*", "feature_extractor/*", "*flax*")
_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def is_name(source: str) -> bool:
    """Whether this can be `owner/name` or `owner/name@revision`."""
    return bool(_NAME.fullmatch(source.partition("@")[0]))


def snapshot(source: str, key: str, patterns: Sequence[str], left_out: Sequence[str] = _LEFT_OUT) -> Path:
    """The local folder, named by its commit, with those files of `source` (owner/name[@revision]) that are wanted.

    Raises ValueError, which names `key`, where the hub does not give it.
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


def commit(folder: Path) -> str | None:
    """Of a folder that `snapshot` gave: it is named by it."""
    return folder.name if re.fullmatch(r"[0-9a-f]{40}", folder.name) else None


def _reason(error: Exception, name: str, revision: str) -> str:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, RevisionNotFoundError):
        return f"the hub's {name} has no revision {revision}; leave it out, or give a branch, tag or commit that it has"
    if isinstance(error, GatedRepoError):
        return f"the hub gives {name} only to accounts that accepted its terms; accept them there, then: hf auth login"
    if isinstance(error, RepositoryNotFoundError):
        return f"neither a folder here nor a model that the hub gives to you; see https://huggingface.co/{name}"
    at = f" --revision {revision}" if revision else ""
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return (
        f"no such folder here, and the hub cannot be reached ({first}); where it can, run\n"
        f"      hf download {name}{at} --local-dir <folder>\n    and give that folder"
    )
