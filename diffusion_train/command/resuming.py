"""Which checkpoint a run goes on from, and what must be so for that."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def resume_from(run_dir: Path, resume: str) -> Path | None:
    """The checkpoint to go on from. Raises ValueError if it is not there or would be overwritten."""
    from diffusion_train.training.checkpoint import damage, newest_whole

    folder = run_dir / "checkpoints"
    if resume == "auto":
        return newest_whole(folder)
    if resume == "never":
        if any(folder.glob("*.ckpt")):
            raise ValueError(f"resume=never, but run_dir={run_dir} already holds a run; give another run_dir")
        return None
    if "://" in resume or not Path(resume).is_file():
        raise ValueError(f"resume={resume}: no such checkpoint file; give a path, auto or never")
    if problem := damage(Path(resume)):
        raise ValueError(f"resume={resume}: {problem}; resume=auto takes the newest whole one of run_dir")
    return Path(resume)


def same_base(cfg: Any, checkpoint: Path | None) -> None:
    """Raises ValueError if the checkpoint is of a run that began with other weights: told before any are read."""
    from diffusion_train.training.checkpoint import read_facts

    if checkpoint is None:
        return
    before = read_facts(checkpoint)["config"].get("base_record", {}).get("sha256")
    now = cfg.get("base_record", {}).get("sha256")
    if before != now:
        was, found = (f"weights of SHA-256 {digest[:12]}..." if digest else "none" for digest in (before, now))
        raise ValueError(
            f"pretrained={cfg.pretrained}: {checkpoint} began with another model ({was}, now {found}); give that one, or "
            "start again in another run_dir"
        )


def same_diffusion(cfg: Any, checkpoint: Path | None) -> None:
    """Raises ValueError where the checkpoint's run had other settings of `diffusion`: told before a model is made."""
    from diffusion_train import config
    from diffusion_train.training.checkpoint import mismatch, read_facts

    if checkpoint is None or "diffusion" in cfg.allow_mismatch:
        return
    parts = (read_facts(checkpoint)["config"]["diffusion"], config.redact(cfg)["diffusion"])
    before, now = (config.settings(part, "diffusion") for part in parts)
    # a setting that only one has comes with another class, or with another version
    if rows := {key: (before[key], now[key]) for key in before if key in now and before[key] != now[key]}:
        raise mismatch(rows, ["diffusion"])


def same_run(trainer: Any, module: Any, datamodule: Any, checkpoint: Path | None) -> None:
    """Raises ValueError for data or weights that are not the checkpoint's: told before any logger begins a run."""
    from diffusion_train.callbacks.checkpointing import Checkpointing
    from diffusion_train.training.checkpoint import peek
    from diffusion_train.training.module import refuse_others, saved_weights, trained

    if checkpoint is None:
        return
    saved = peek(checkpoint)
    refuse_others(saved_weights(saved), trained(module.learned))
    for callback in trainer.callbacks:
        if isinstance(callback, Checkpointing):
            callback.refuse_other_run(saved["diffusion_train"], trainer.precision, datamodule)


def way_on(run_dir: Path, resume: str) -> str:
    """What to do once the fault is mended."""
    from diffusion_train.training.checkpoint import by_step

    again = " ".join([f"the same command with run_dir={run_dir}", *(["resume=auto"] if resume != "auto" else [])])
    if saved := by_step(run_dir / "checkpoints"):
        return f"{again} goes on from step {int(saved[0].stem.removeprefix('step_'))}, the last one saved"
    return "no step of this run is saved: the same command begins where this one did"
