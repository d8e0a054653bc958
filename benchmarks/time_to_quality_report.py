"""Results of time_to_quality.py: a table, a file and a plot."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """A side after some minutes of training. Retrieval is a fraction; None: the side draws for no captions."""

    side: str
    minutes: float
    learning_rate: float | None = None  # if several were tried
    parameters: int = 0
    start_seconds: float = 0.0  # until the first step
    seconds: float = 0.0  # of training
    steps: int = 0
    samples: int = 0
    kid: float | None = None
    retrieval: float | None = None
    held_kid: float | None = None
    held_retrieval: float | None = None
    failure: str = ""

    @property
    def name(self) -> str:
        return self.side if self.learning_rate is None else f"{self.side}@{self.learning_rate:g}"


def best(rows: Sequence[Row]) -> list[Row]:
    """Return the row of the learning rate with the lowest KID, for each side and number of minutes."""
    chosen: dict[tuple[float, str], Row] = {}
    for row in rows:
        key = row.minutes, row.side
        if key not in chosen or _kid(row) < _kid(chosen[key]):
            chosen[key] = row
    return [chosen[key] for key in sorted(chosen, key=lambda key: key[0])]


def _kid(row: Row) -> float:
    return float("inf") if row.kid is None else row.kid


def table(rows: Sequence[Row], real: float) -> str:
    """Return a table in Markdown. `real` is the KID of training images to others."""
    counts, measures = "minutes | side | parameters | start | steps | samples", "KID | retrieval"
    lines = [f"| {counts} | {measures} | KID, held out | retrieval, held out |", "|" + "---|" * 10]
    for row in best(rows):
        figures = [_number(row.kid), _percent(row.retrieval), _number(row.held_kid), _percent(row.held_retrieval)]
        counts = [f"{row.parameters / 1e6:.2f} M", f"{row.start_seconds:.1f} s", f"{row.steps:,}", f"{row.samples:,}"]
        cells = [*counts, *figures] if not row.failure else [row.failure, *[""] * 7]
        lines.append(f"| {row.minutes:g} | {row.name} | {' | '.join(cells)} |")
    return "\n".join([*lines, f"| | real images | | | | | {real:.3f} | | | |"])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def write_report(rows: Sequence[Row], real: float, settings: dict[str, object], out: Path) -> None:
    """Write results.json with the rows of all learning rates, and kid.svg and kid.png, a plot of the best ones."""
    results = {"settings": settings, "kid_of_real_images": real, "rows": [asdict(row) for row in rows]}
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    plot(best(rows), real, [out / "kid.svg", out / "kid.png"])


def plot(rows: Sequence[Row], real: float, files: Sequence[Path]) -> None:
    """Draw KID over minutes of training, a line for each side."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    for number, side in enumerate(dict.fromkeys(row.side for row in rows)):
        points = [(row.minutes, row.kid) for row in rows if row.side == side and row.kid is not None]
        style = {"linewidth": 2.5, "zorder": 3} if side == "ours" else {"linewidth": 1.2}
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", color=f"C{number}", label=side, **style)
    axes.axhline(max(real, 1e-3), color="gray", linestyle=":", label="real images")
    axes.set(xlabel="minutes of training", ylabel="KID-efflite0 (lower is better)", yscale="log")
    axes.set_xticks(sorted({row.minutes for row in rows}), [f"{m:g}" for m in sorted({row.minutes for row in rows})])
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize="small", frameon=False)
    for file in files:
        with rc_context({"svg.hashsalt": "time_to_quality", "svg.fonttype": "path"}):
            figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else {"Software": None})
