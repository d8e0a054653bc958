"""What a run that resumes must have in common with its checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from diffusion_train.config import settings
from diffusion_train.config.checks.signatures import default
from diffusion_train.training.resume import (
    DECISIVE_GROUPS,
    changed_settings,
    check_same_settings,
    find_checkpoint,
)
from diffusion_train.utils.text import NOT_SET

ADAM: dict[str, object] = {"optimizer._target_": "torch.optim.AdamW", "optimizer.lr": 0.1}
BEFORE = {"diffusion.schedule._target_": "schedule.Linear", "diffusion.schedule.start": 0.1, "diffusion.offset": 0.0}


def compare(before: dict[str, object], now: dict[str, object], *allowed: str) -> dict[str, tuple[object, object]]:
    changed = changed_settings(before, now, default)
    check_same_settings(changed, allowed)
    return changed


def test_other_settings_are_refused_one_by_one() -> None:
    assert compare(BEFORE, dict(BEFORE)) == {}
    now = {**BEFORE, "diffusion.schedule._target_": "schedule.Cosine", "diffusion.schedule.start": 0.2}
    listed = (
        r"schedule._target_: schedule.Linear in the checkpoint, schedule.Cosine now\n  .*start: 0.1 in .*, 0.2 now\n"
    )
    with pytest.raises(ValueError, match=listed + r".*allow_mismatch=\[diffusion\]"):
        compare(BEFORE, now)
    assert len(compare(BEFORE, now, "diffusion")) == 2


def test_a_setting_that_came_or_went_with_a_version_makes_no_other_run() -> None:
    assert compare(BEFORE, {**BEFORE, "diffusion.new": 1}) == {}
    assert compare({**BEFORE, "diffusion.old": 1}, BEFORE) == {}
    assert compare(ADAM, {**ADAM, "optimizer._target_": "torch.optim.SGD", "optimizer.momentum": 0.9}, "optimizer") == {
        "optimizer._target_": ("torch.optim.AdamW", "torch.optim.SGD")
    }
    assert compare({**ADAM, "optimizer.old": 1}, ADAM) == {}


@pytest.mark.parametrize(
    ("added", "changed"),
    [
        ({"optimizer.amsgrad": True}, {"optimizer.amsgrad": (False, True)}),
        ({"optimizer.betas": [0.8, 0.9]}, {"optimizer.betas": ([0.9, 0.999], [0.8, 0.9])}),
        ({"optimizer.params": 1}, {"optimizer.params": (NOT_SET, 1)}),
        ({"optimizer.eps.inner": 1}, {"optimizer.eps.inner": (NOT_SET, 1)}),
        ({"optimizer.eps._target_": "a.B", "optimizer.eps.x": 1}, {"optimizer.eps._target_": (NOT_SET, "a.B")}),
        ({"optimizer.amsgrad": False, "optimizer.betas": [0.9, 0.999]}, {}),
    ],
)
def test_a_setting_that_one_of_the_two_leaves_out_has_the_default_of_its_class(
    added: dict[str, object], changed: dict[str, tuple[object, object]]
) -> None:
    assert compare(ADAM, {**ADAM, **added}, "optimizer") == changed
    removed = {key: (now, before) for key, (before, now) in changed.items()}
    assert compare({**ADAM, **added}, ADAM, "optimizer") == removed
    if changed:
        with pytest.raises(ValueError, match=rf"{next(iter(changed))}: .*in the checkpoint"):
            compare(ADAM, {**ADAM, **added})


def test_folders_of_a_base_model_are_compared_by_its_hash() -> None:
    before = {"base_record.sha256": "a", "autoencoder.source": "old", "autoencoder.dtype": "float32"}
    assert compare(before, {**before, "autoencoder.source": "new"}) == {}
    with pytest.raises(ValueError, match="autoencoder"):
        compare(before, {**before, "autoencoder.dtype": "bfloat16"})
    with pytest.raises(ValueError, match="autoencoder"):
        compare({"autoencoder.source": "a"}, {"autoencoder.source": "b"})


def test_a_checkpoint_that_is_named_and_cut_off_is_refused(tmp_path: Path) -> None:
    torch.save({"diffusion_train": {"format": 1}}, tmp_path / "a.ckpt")
    assert find_checkpoint(tmp_path, str(tmp_path / "a.ckpt")) == tmp_path / "a.ckpt"
    (tmp_path / "a.ckpt").write_bytes((tmp_path / "a.ckpt").read_bytes()[:300])
    with pytest.raises(ValueError, match=r"a\.ckpt: damaged or incomplete .*; resume=auto"):
        find_checkpoint(tmp_path, str(tmp_path / "a.ckpt"))


CONF = Path(__file__).parents[2] / "conf"
PARTS = sorted(
    path
    for path in CONF.rglob("*.yaml")
    if path.parent != CONF and path.parent.name not in ("experiment", "debug", "source")
)


@pytest.mark.parametrize("path", PARTS, ids=lambda path: str(path.relative_to(CONF).with_suffix("")))
def test_no_setting_of_any_part_changes_unnoticed(path: Path) -> None:
    """Each is refused with its group unless that is allowed,
    or is among those that a resumed run prints and records.
    """
    group = ".".join(path.relative_to(CONF).parent.parts)
    leaves = settings(yaml.safe_load(path.read_text("utf-8")), group)
    for key in leaves.keys() - {f"{group}.defaults"}:
        assert compare({key: "before"}, {key: "after"}, *DECISIVE_GROUPS) == {key: ("before", "after")}
        if key.split(".")[0] in DECISIVE_GROUPS and key not in (
            "network.gradient_checkpointing",
            "conditioner.max_bytes",
        ):
            with pytest.raises(ValueError, match=rf"allow_mismatch=\[{key.split('.')[0]}\]"):
                compare({key: "before"}, {key: "after"})
