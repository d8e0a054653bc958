"""The smallest state that a checkpoint can have: one weight, its average and its optimizer."""

from __future__ import annotations

from typing import Any

import torch

from diffusion_train.training.weights_header import FORMAT

WEIGHT = torch.arange(5000.0)
GROUPS = ("diffusion", "network", "conditioner", "autoencoder", "adapter", "optimizer", "lr_schedule", "ema", "data")
CONFIG: dict[str, Any] = {"seed": 0, **{group: {} for group in (*GROUPS, "trainer")}}


def state(step: int = 1, weight: torch.Tensor = WEIGHT) -> dict[str, Any]:
    counts = {"ready": step, "completed": step, "started": step, "processed": step}
    progress = {"total": counts, "current": counts}
    loop = {
        "epoch_progress": progress,
        "epoch_loop.state_dict": {"_batches_that_stepped": step},
        "epoch_loop.batch_progress": {**progress, "is_last_batch": False},
        "epoch_loop.scheduler_progress": progress,
        "epoch_loop.manual_optimization.optim_step_progress": progress,
    }
    moments = {"step": torch.tensor(float(step)), "exp_avg": weight * 0, "exp_avg_sq": weight * 0}
    return {
        "diffusion_train": {
            "format": FORMAT,
            "version": "0",
            "step": step,
            "wandb_id": None,
            "cursor": step,
            "identity": {"seed": 0},
            "config": CONFIG,
        },
        "pytorch-lightning_version": "2.6.6",
        "epoch": 0,
        "global_step": step,
        "loops": {"fit_loop": loop},
        "state_dict": {"network.w": weight},
        "ema": {"names": ["0.9"], "averages": [{"w": weight + 0}]},
        "optimizer_states": [{"state": {0: moments}, "param_groups": [{"params": [0], "lr": 1e-3}]}],
        "lr_schedulers": [{"last_epoch": step, "_step_count": step, "base_lrs": [1e-3], "lr_lambdas": [None]}],
        "skipped_in_a_row": torch.zeros(()),
        "callbacks": {},
    }
