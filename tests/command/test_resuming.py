"""What a run that goes on must have in common with its checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from diffusion_train.command.resuming import resume_from, same_diffusion

SCHEDULE = {"_target_": "schedule.Linear", "start": 0.1, "end": 1}


def compare(folder: Path, now: dict[str, Any], allow_mismatch: tuple[str, ...] = ()) -> None:
    saved = {"format": 1, "config": {"diffusion": {"schedule": SCHEDULE, "offset_noise": 0.0}}}
    torch.save({"diffusion_train": saved}, folder / "a.ckpt")
    same_diffusion(OmegaConf.create({"diffusion": now, "allow_mismatch": list(allow_mismatch)}), folder / "a.ckpt")


def test_another_diffusion_is_refused_setting_by_setting_unless_allowed(tmp_path: Path) -> None:
    same_diffusion(OmegaConf.create({}), None)
    compare(tmp_path, {"schedule": SCHEDULE, "offset_noise": 0.0})
    other = {"schedule": {**SCHEDULE, "_target_": "schedule.Cosine", "start": 0.2}, "offset_noise": 0.0}
    told = r"schedule._target_: schedule.Linear in the checkpoint, schedule.Cosine now\n  .*start: 0.1 in .*, 0.2 now\n"
    with pytest.raises(ValueError, match=told + r".*allow_mismatch=\[diffusion\]"):
        compare(tmp_path, other)
    compare(tmp_path, other, ("diffusion",))


def test_a_setting_that_came_or_went_with_a_version_makes_no_other_run(tmp_path: Path) -> None:
    compare(tmp_path, {"schedule": SCHEDULE | {"new": 1}})


def test_a_checkpoint_that_is_named_and_cut_off_is_refused(tmp_path: Path) -> None:
    torch.save({"diffusion_train": {"format": 1}}, tmp_path / "a.ckpt")
    assert resume_from(tmp_path, str(tmp_path / "a.ckpt")) == tmp_path / "a.ckpt"
    (tmp_path / "a.ckpt").write_bytes((tmp_path / "a.ckpt").read_bytes()[:300])
    with pytest.raises(ValueError, match=r"a\.ckpt: not a whole checkpoint .*; resume=auto"):
        resume_from(tmp_path, str(tmp_path / "a.ckpt"))
