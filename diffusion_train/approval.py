"""Approvals of the images of a run: who approved them, for which use, and on which weights.

approvals.json in the run folder holds every decision, oldest first. The latest decision on a use counts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from cattrs import BaseValidationError, Converter, transform_error

from diffusion_train.run_folder import RunFolder, weights_file
from diffusion_train.utils.files import atomic_file, file_sha256
from diffusion_train.utils.lock import wait_for_lock
from diffusion_train.utils.text import argument

_FORMAT = "diffusion_train approvals 1"
_MAX_BYTES = 16 << 20
_CONVERTER = Converter(forbid_extra_keys=True)


@dataclass(frozen=True, kw_only=True)
class Decision:
    """An approval of a run's images for one use, or the withdrawal of one.

    `approved` and `rejected` count samples by the marks of all reviewers, `not_judged` those of brand prompts without a
    verdict. `marks` is the SHA-256 of the file of marks that the approval names. A withdrawal has no marks.
    """

    verdict: Literal["approved", "revoked"]
    use: str
    by: str
    date: str  # ISO 8601
    weights: str  # SHA-256 of weights.safetensors
    scale: float | None  # of the adapter in the images that were judged; None without an adapter
    marks: str | None = None
    approved: int = 0
    rejected: int = 0
    not_judged: int | None = None  # None in records of earlier versions

    @property
    def counts(self) -> str:
        judged = f"{self.approved} samples approved, {self.rejected} rejected"
        return judged if self.not_judged is None else f"{judged}, {self.not_judged} of brand prompts not judged"


@dataclass(frozen=True)
class Approvals:
    """The decisions on a run, oldest first, and the weights and the strength for which they must hold."""

    decisions: Sequence[Decision]
    weights: str
    scale: float | None

    @property
    def valid(self) -> list[Decision]:
        return [decision for decision in self.latest if not self.fault(decision)]

    @property
    def latest(self) -> list[Decision]:
        """The latest decision on each use, in the order of the decisions."""
        latest = {decision.use: decision for decision in self.decisions}
        return [decision for decision in self.decisions if latest[decision.use] is decision]

    def fault(self, decision: Decision) -> str:
        """Return why a decision is no approval of these weights at this strength; "" if it is one."""
        if decision.verdict == "revoked":
            return f"withdrawn by {decision.by} on {decision.date[:10]}"
        if decision.weights != self.weights:
            return "out of date: the weights have changed since"
        if decision.scale != self.scale:
            return f"for adapter.scale={_text(decision.scale)} only, not for adapter.scale={_text(self.scale)}"
        return ""

    def describe(self) -> list[str]:
        """Return a line for each use on which somebody decided, or one line that says that nobody did."""
        lines = [
            f"{'no approval' if fault else 'approved'} for {one.use}: "
            + (fault or f"by {one.by} on {one.date[:10]} ({one.counts})")
            for one in self.latest
            for fault in [self.fault(one)]
        ]
        return lines or ["no approval: nobody has approved the images of this run"]


def approvals_of(run: Path, scale: float | None) -> Approvals:
    """Return the approvals of a run folder, or of the folder of its weights.safetensors.

    `scale` is the strength at which the adapter is used. Raises ValueError if there are no weights, or if
    approvals.json cannot be read.
    """
    weights = weights_file(run)
    return Approvals(_read(RunFolder(weights.parent)), file_sha256(weights), scale)


def reviewing(run: Path) -> AbstractContextManager[None]:
    """Wait until no other command changes the approvals or the report of a run, and keep others waiting meanwhile."""
    return wait_for_lock(RunFolder(run).review_lock)


def record(run: Path, decision: Decision) -> None:
    """Add a decision to those of a run folder, within `reviewing`. Raises ValueError if they cannot be read."""
    folder = RunFolder(run)
    decisions = [asdict(one) for one in [*_read(folder), decision]]
    with atomic_file(folder.approvals) as file:
        file.write(json.dumps({"format": _FORMAT, "decisions": decisions}, indent=1, ensure_ascii=False).encode())


def approve_command(run: Path) -> str:
    """Return the command that records an approval, with placeholders for the use and the name."""
    return f"diffusion-train approve {argument('run', run)} marks=marks.json use=\"'<use>'\" by=\"'<name>'\""


def _read(folder: RunFolder) -> list[Decision]:
    file = folder.approvals
    if not file.is_file():
        return []
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise ValueError(f"must have at most {_MAX_BYTES} bytes")
        content = json.loads(file.read_text("utf-8"))
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise ValueError(f'its "format" must be "{_FORMAT}"')
        return _CONVERTER.structure(content.get("decisions"), list[Decision])
    except BaseValidationError as error:
        raise _unreadable(file, "; ".join(transform_error(error))) from error
    except (ValueError, TypeError, RecursionError) as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, problem: object) -> ValueError:
    remedy = "restore it from a backup, or move it away and approve again"
    return ValueError(f"{file}: cannot be read ({problem}); {remedy}")


def _text(scale: float | None) -> str:
    return "null" if scale is None else f"{scale:g}"
