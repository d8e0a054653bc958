"""Finds the checkpoint that a run resumes from, and checks that both have the same settings."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from diffusion_train.run_folder import RunFolder, by_step
from diffusion_train.training.checkpoint.checkpoint_file import damage, newest_whole
from diffusion_train.utils.text import NOT_SET, argument

# Groups of the config that decide how weights move. All other settings may change when a run resumes.
DECISIVE_GROUPS = (
    *("diffusion", "network", "conditioner", "autoencoder", "adapter", "condition_dropout"),
    *("optimizer", "lr_schedule", "ema", "clip_norm"),
)
_HARMLESS = ("network.gradient_checkpointing", "conditioner.max_bytes")
_WHERE = ("run_dir", "resume", "allow_mismatch", "pretrained", "base")
_WHERE_IN_BASE = (".source", "network.model")  # folders of the base model, which is compared by its hash


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
        raise ValueError(f"resume={resume}: {problem}; resume=auto uses the newest undamaged checkpoint of run_dir")
    return Path(resume)


def check_same_base(checkpoint: Path, before: str | None, now: str | None, pretrained: str | None) -> None:
    """Raise ValueError if the checkpoint's run began with weights of another SHA-256 than this run."""
    if before != now:
        was, are = (f"weights of SHA-256 {digest[:12]}..." if digest else "none" for digest in (before, now))
        raise ValueError(
            f"pretrained={pretrained}: {checkpoint} began with another model ({was} then, {are} now); give that model, "
            "or start again in another run_dir"
        )


def changed_settings(
    before: Mapping[str, Any], now: Mapping[str, Any], default: Callable[[str, str], Any]
) -> dict[str, tuple[Any, Any]]:
    """Return dotted key -> (value in the checkpoint, value now) of every setting that differs.

    A setting that only one of the two has counts as the class's `default(class, setting)` in the other, which raises
    KeyError if the class has no such setting. Those that come from another class are left out. So are those that only
    say where the run and its base model are.
    """
    of_base = _WHERE_IN_BASE if now.get("base_record.sha256") else ()
    changed = {}
    for key in {**before, **now}:
        if key.startswith(_WHERE) or key.endswith(of_base):
            continue
        with suppress(KeyError):
            values = tuple(one[key] if key in one else _default(key, before, now, default) for one in (before, now))
            if values[0] != values[1]:
                changed[key] = (values[0], values[1])
    return changed


def _default(key: str, before: Mapping[str, Any], now: Mapping[str, Any], default: Callable[[str, str], Any]) -> object:
    """Return the value of a setting that a config leaves out. Raises KeyError if it is of another class or version."""
    names = key.removesuffix("._target_").split(".")
    for length in range(len(names) - 1, 0, -1):
        target = f"{'.'.join(names[:length])}._target_"
        if target in before or target in now:
            if before.get(target) != now.get(target):
                break
            value = default(str(now[target]), names[length])
            return value if length == len(names) - 1 and not key.endswith("._target_") else NOT_SET
    raise KeyError(key)


def check_same_settings(changed: Mapping[str, tuple[Any, Any]], allow_mismatch: Collection[str]) -> None:
    """Raise ValueError if a changed setting is of a group that decides how weights move and that is not allowed."""
    refused = {key: values for key, values in changed.items() if _decides(key) and _group(key) not in allow_mismatch}
    if refused:
        raise mismatch(refused, sorted({_group(key) for key in refused}))


def mismatch(rows: dict[str, tuple[Any, Any]], allowing: Iterable[str], then: str = "") -> ValueError:
    """Return the error for settings that differ from a checkpoint.

    `rows` maps a setting to its values in the checkpoint and now. `allowing` lists the names that `allow_mismatch` must
    hold to resume anyway, and `then` says what happens in that case.
    """
    table = "\n  ".join(f"{name}: {before} in the checkpoint, {now} now" for name, (before, now) in rows.items())
    return ValueError(
        f"the run cannot resume exactly from its checkpoint:\n  {table}\nrestore these, start again "
        f"in another run_dir, or resume anyway with allow_mismatch=[{','.join(allowing)}]{then}"
    )


def _group(key: str) -> str:
    return key.partition(".")[0]


def _decides(key: str) -> bool:
    return _group(key) in DECISIVE_GROUPS and key not in _HARMLESS


def resume_hint(run_dir: Path, resume: str) -> str:
    """Return how to resume once the error is fixed, for messages."""
    again = " ".join(
        [f"the same command with {argument('run_dir', run_dir)}", *(["resume=auto"] if resume != "auto" else [])]
    )
    if saved := by_step(RunFolder(run_dir).checkpoints):
        return f"{again} resumes from step {int(saved[0].stem.removeprefix('step_'))}, the last one saved"
    return "no step of this run was saved; the same command starts where this one did"
