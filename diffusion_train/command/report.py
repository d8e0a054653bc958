"""Write a report for the person who approves a run's images: closeness to the brand, copied images and licences."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from diffusion_train.approval import reviewing
from diffusion_train.report.brand_report import add_marks, read_report, write_report
from diffusion_train.report.marks import read_marks
from diffusion_train.utils.exit_code import Exit
from diffusion_train.utils.quiet import quiet_libraries

SUMMARY = "write a report for the person who approves a run's images"
EXAMPLE = """diffusion-train report run=runs/brand/<date_time>
diffusion-train report run=runs/brand/<date_time> marks=marks.json"""
RUN_KEYS = (
    "network",
    "conditioner",
    "autoencoder",
    "adapter",
    "diffusion",
    "sampler",
    "guidance",
    "data",
    "pretrained",
    "name",
)


def run(cfg: DictConfig) -> int:
    """`cfg` is the run's config; this command's settings are in `cfg.report`."""
    quiet_libraries()
    folder = Path(cfg.report.run)
    if not folder.is_dir():
        raise ValueError(f"run={folder}: must be a run folder, into which the report is written")
    if cfg.report.marks:
        with reviewing(folder):
            add_marks(folder, read_report(folder), read_marks(Path(cfg.report.marks)).marks)
    else:
        write_report(folder, cfg, cfg.report)
    return Exit.DONE
