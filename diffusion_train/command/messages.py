"""What a run says of itself when it ends, and what it keeps quiet."""

from __future__ import annotations

import logging
import shlex
import warnings
from pathlib import Path
from typing import Any


def farewell(cfg: Any, trainer: Any, run_dir: Path) -> None:
    """Where everything is, and the command to run next."""
    if not trainer.is_global_zero or not (run_dir / "weights.safetensors").exists():
        return
    grids = sorted((run_dir / "samples").glob("step_*.png"))
    rows = {
        "weights": run_dir / "weights.safetensors",
        "checkpoint": run_dir / "checkpoints" / "last.ckpt",
        "samples": grids[-1] if grids else "none drawn yet",
        "metrics": run_dir / "metrics.csv",
    }
    print(f"\nstopped at step {trainer.global_step}" if trainer.global_step < trainer.max_steps else "\ndone")
    for name, value in rows.items():
        print(f"  {name:<11}{value}")
    print("sample from it:\n  " + sample_command(cfg, run_dir))


def sample_command(cfg: Any, run_dir: Path) -> str:
    words = ["python", "sample.py", f"run={run_dir}"]
    if chosen := [prompt for prompt in prompts(cfg) if prompt][:3]:
        listed = ", ".join('"' + prompt.replace('"', '\\"') + '"' for prompt in chosen)
        words += [f"prompts=[{listed}]"]
    return shlex.join([*words, "num_samples=4"])


def prompts(cfg: Any) -> list[str]:
    """Those of the sample grids."""
    return list(cfg.callbacks.get("samples", {}).get("prompts", []))


def quiet() -> None:
    """Keeps to what a user can act on: neither Lightning's advice about its own loops nor packages that nothing here needs."""
    import pytorch_lightning  # noqa: F401  (sets its loggers' levels when imported)

    lightning = ("pytorch_lightning", "pytorch_lightning.utilities.rank_zero", "lightning_fabric.utilities.distributed")
    for name in (*lightning, "torch.distributed", "transformers.utils.import_utils"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    warnings.filterwarnings("ignore", message=".*isinstance.*LeafSpec.*")
