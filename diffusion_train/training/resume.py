"""Finds the checkpoint that a run resumes from, and checks that both have the same settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusion_train.run_folder import RunFolder
from diffusion_train.training.checkpoint import by_step, damage, mismatch, newest_whole
from diffusion_train.utils.text import argument


def find_checkpoint(run_dir: Path, resume: str) -> Path | None:
    """Return the checkpoint to resume from, or None to start anew.

    Raises ValueError if it is missing or damaged, or if a new run would overwrite one.
    """
    folder = RunFolder(run_dir).checkpoints
    if resume == "auto":
        return newest_whole(folder)
    if resume == "never":
        if any(folder.glob("*.ckpt")):
            raise ValueError(f"resume=never, but run_dir={run_dir} already holds a run; give another run_dir")
        return None
    if "://" in resume or not Path(resume).is_file():
        raise ValueError(f"resume={resume}: no such checkpoint file; give a path, auto or never")
    if problem := damage(Path(resume)):
        raise ValueError(f"resume={resume}: {problem}; resume=auto uses the newest undamaged one of run_dir")
    return Path(resume)


def check_same_base(checkpoint: Path, before: str | None, now: str | None, pretrained: str | None) -> None:
    """Raise ValueError if the checkpoint's run began with weights of another SHA-256 than this run."""
    if before != now:
        was, are = (f"weights of SHA-256 {digest[:12]}..." if digest else "none" for digest in (before, now))
        raise ValueError(
            f"pretrained={pretrained}: {checkpoint} began with another model ({was}, now {are}); give that one, or "
            "start again in another run_dir"
        )


def check_same_settings(group: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise ValueError that lists the settings of a group that differ from the checkpoint's.

    Settings that only one of the two has are ignored: they come from another class or version.
    """
    if rows := {key: (before[key], now[key]) for key in before if key in now and before[key] != now[key]}:
        raise mismatch(rows, [group])


def resume_hint(run_dir: Path, resume: str) -> str:
    """Return how to resume once the error is fixed, for messages."""
    again = " ".join(
        [f"the same command with {argument('run_dir', run_dir)}", *(["resume=auto"] if resume != "auto" else [])]
    )
    if saved := by_step(RunFolder(run_dir).checkpoints):
        return f"{again} resumes from step {int(saved[0].stem.removeprefix('step_'))}, the last one saved"
    return "no step of this run is saved: the same command begins where this one did"
