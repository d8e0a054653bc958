"""What a run that resumes must have in common with its checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from diffusion_train.training.resume import check_same_settings, find_checkpoint

BEFORE = {"diffusion.schedule._target_": "schedule.Linear", "diffusion.schedule.start": 0.1, "diffusion.offset": 0.0}


def test_other_settings_are_refused_one_by_one() -> None:
    check_same_settings("diffusion", BEFORE, dict(BEFORE))
    now = {**BEFORE, "diffusion.schedule._target_": "schedule.Cosine", "diffusion.schedule.start": 0.2}
    listed = (
        r"schedule._target_: schedule.Linear in the checkpoint, schedule.Cosine now\n  .*start: 0.1 in .*, 0.2 now\n"
    )
    with pytest.raises(ValueError, match=listed + r".*allow_mismatch=\[diffusion\]"):
        check_same_settings("diffusion", BEFORE, now)


def test_a_setting_that_came_or_went_with_a_version_makes_no_other_run() -> None:
    check_same_settings("diffusion", BEFORE, {**BEFORE, "diffusion.new": 1})
    check_same_settings("diffusion", {**BEFORE, "diffusion.old": 1}, BEFORE)


def test_a_checkpoint_that_is_named_and_cut_off_is_refused(tmp_path: Path) -> None:
    torch.save({"diffusion_train": {"format": 1}}, tmp_path / "a.ckpt")
    assert find_checkpoint(tmp_path, str(tmp_path / "a.ckpt")) == tmp_path / "a.ckpt"
    (tmp_path / "a.ckpt").write_bytes((tmp_path / "a.ckpt").read_bytes()[:300])
    with pytest.raises(ValueError, match=r"a\.ckpt: damaged or incomplete .*; resume=auto"):
        find_checkpoint(tmp_path, str(tmp_path / "a.ckpt"))
