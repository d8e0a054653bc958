"""Record that somebody approves the images of a run for one use, or withdraw the approval.

The approval is based on the marks that a reviewer saved on the report. It is valid for the present weights of the run,
until more training changes them. Several uses can be approved one after the other.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from omegaconf import DictConfig

from diffusion_train import config
from diffusion_train.approval import Decision, approvals_of, record, reviewing
from diffusion_train.command.next_commands import after_approval
from diffusion_train.report.brand_report import add_marks, read_report, show_report
from diffusion_train.report.facts import Report
from diffusion_train.report.marks import MarksFile, judged, merged, read_marks
from diffusion_train.run_folder import weights_file
from diffusion_train.utils.exit_code import Exit
from diffusion_train.utils.files import file_sha256
from diffusion_train.utils.quiet import quiet_libraries
from diffusion_train.utils.text import argument, printable

SUMMARY = "record that somebody approves a run's images for one use"
EXAMPLE = """\
diffusion-train approve run=runs/brand/<date_time> marks=marks.json use="'campaign X'" by="'A. Name'"
diffusion-train approve run=runs/brand/<date_time> use="'campaign X'" by="'A. Name'" revoke=true"""
RUN_KEYS = ()


def run(cfg: DictConfig) -> int:
    """`cfg` is the run's config; this command's settings are in `cfg.approve`."""
    quiet_libraries()
    ask, folder = cfg.approve, Path(cfg.approve.run)
    refuse_wrong(cfg)
    with reviewing(folder):
        report = read_report(folder)
        if ask.revoke:
            record(folder, withdrawal(ask, folder, report))
            show_report(folder, report)
        else:
            marks = read_marks(Path(ask.marks))
            record(folder, approval(ask, folder, report, marks))
            add_marks(folder, report, marks.marks)
    approvals = approvals_of(folder, report.scale)
    print("\n".join(printable(line, 400) for line in approvals.describe()))
    if approvals.valid and not ask.revoke:
        if report.scale is not None:
            cfg.adapter.scale = report.scale
        print("\n".join(after_approval(cfg, folder)))
    return Exit.DONE


def refuse_wrong(cfg: DictConfig) -> None:
    """Raises ConfigError with every mistake in the command's own settings."""
    ask, mistakes = cfg.approve, []
    if not Path(ask.run).is_dir():
        mistakes.append(config.Mistake(f"run={ask.run}", "must be a run folder, into which the approval is written"))
    for key in ("use", "by"):
        if not str(ask[key]).strip():
            mistakes.append(config.Mistake(f"{key}={ask[key]}", "must not be empty"))
    if not (ask.marks or ask.revoke):
        remedy = 'give the file that the button "Save marks" of the report writes'
        mistakes.append(config.Mistake("marks=null", "must be given, because an approval rests on marks", remedy))
    if ask.marks and ask.revoke:
        mistakes.append(config.Mistake(f"marks={ask.marks}", "is not read with revoke=true", "leave it out"))
    config.raise_all(mistakes)


def approval(ask: DictConfig, folder: Path, report: Report, marks: MarksFile) -> Decision:
    """Return the approval, which rests on the new marks and on those that other reviewers made in the report.

    Raises ValueError if report, marks and run do not have the same model, or if no sample is approved.
    """
    weights = file_sha256(weights_file(folder))
    again = f"make the report again (diffusion-train report {argument('run', folder)}) and mark its samples"
    if report.weights != weights:
        raise ValueError(f"run={folder}: the weights have changed since the report was made; {again}")
    if report.changed:
        raise ValueError(
            f"run={folder}: the report was made with other settings of the model than the run has "
            f"({', '.join(report.changed)}); {again}"
        )
    if marks.weights != weights:
        raise ValueError(f"marks={ask.marks}: the marks are of images of other weights; {again}")
    approved, rejected = judged(merged(report.marks, marks.marks), {sample.image for sample in report.samples})
    if not approved:
        raise ValueError(
            f"marks={ask.marks}: at least one sample of the report must be approved and not rejected by anybody, "
            f"got {len(rejected)} rejected; mark the samples in report.html"
        )
    to_judge = {sample.image for sample in report.samples if sample.set == "brand"}
    return Decision(
        verdict="approved",
        use=_line(ask.use),
        by=_line(ask.by),
        date=_now(),
        weights=weights,
        scale=report.scale,
        marks=file_sha256(Path(ask.marks)),
        approved=len(approved),
        rejected=len(rejected),
        not_judged=len(to_judge - approved - rejected),
    )


def withdrawal(ask: DictConfig, folder: Path, report: Report) -> Decision:
    """Return the withdrawal. Raises ValueError if nobody has approved this use."""
    approvals, use = approvals_of(folder, report.scale), _line(ask.use)
    uses = [one.use for one in approvals.latest if one.verdict == "approved"]
    if use not in uses:
        known = f"approved are: {', '.join(map(printable, uses))}" if uses else "nothing is approved"
        raise ValueError(f"use={use}: is not approved, so it cannot be withdrawn; {known}")
    by = _line(ask.by)
    return Decision(verdict="revoked", use=use, by=by, date=_now(), weights=approvals.weights, scale=approvals.scale)


def _line(text: object) -> str:
    return " ".join(str(text).split())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
