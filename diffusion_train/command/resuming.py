"""Which checkpoint a run goes on from, and what must be so for that."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def resume_from(run_dir: Path, resume: str) -> Path | None:
    """The checkpoint to go on from. Raises ValueError if it is not there or would be overwritten."""
    from diffusion_train.training.checkpoint import newest_whole

    folder = run_dir / "checkpoints"
    if resume == "auto":
        return newest_whole(folder)
    if resume == "never":
        if any(folder.glob("*.ckpt")):
            raise ValueError(f"resume=never, but run_dir={run_dir} already holds a run; give another run_dir")
        return None
    if "://" in resume or not Path(resume).is_file():
        raise ValueError(f"resume={resume}: no such checkpoint file; give a path, auto or never")
    return Path(resume)


def same_base(cfg: Any, checkpoint: Path | None) -> None:
    """Raises ValueError if the checkpoint is of a run that began with other weights: told before any are read."""
    from diffusion_train.training.checkpoint import read_facts

    if checkpoint is None:
        return
    before = read_facts(checkpoint)["config"].get("base", {}).get("sha256")
    if before != cfg.base.sha256:
        was, now = (
            f"weights of SHA-256 {digest[:12]}..." if digest else "none" for digest in (before, cfg.base.sha256)
        )
        raise ValueError(
            f"pretrained={cfg.pretrained}: {checkpoint} began with another model ({was}, now {now}); give that one, or "
            "start again in another run_dir"
        )


def way_on(run_dir: Path, resume: str) -> str:
    """What to do once the fault is mended."""
    from diffusion_train.training.checkpoint import by_step

    again = " ".join([f"the same command with run_dir={run_dir}", *(["resume=auto"] if resume != "auto" else [])])
    if saved := by_step(run_dir / "checkpoints"):
        return f"{again} goes on from step {int(saved[0].stem.removeprefix('step_'))}, the last one saved"
    return "no step of this run is saved: the same command begins where this one did"
