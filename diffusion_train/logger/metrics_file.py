"""metrics.csv: every scalar of a run, whatever other loggers are used."""

from __future__ import annotations

import csv
import io
import os
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from diffusion_train.utils.files import atomic_file

Row = dict[str, str]


class MetricsFile(Logger):
    """Writes `run_dir/metrics.csv`: a column `step` and one per scalar; one row per step, sorted by step.

    Scalars are in the file when `log_metrics` returns. All calls for one step share a row. A new name becomes a new
    column, for which the file is rewritten and replaced atomically. Only rank zero writes.
    """

    def __init__(self, run_dir: str | Path) -> None:
        super().__init__()
        self.path = Path(run_dir) / "metrics.csv"
        self._columns: list[str] = []
        self._last: Row = {}
        self._last_offset = 0
        self._file: io.FileIO | None = None

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the run folder holds config.yaml already."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add scalars to the row of `step`, which must be given."""
        assert step is not None, "metrics.csv is ordered by step"
        self._open()
        new = {"step": str(step)} | {name: _text(value) for name, value in metrics.items()}
        last_step = int(self._last.get("step", -1))
        columns = self._columns + [name for name in new if name not in self._columns]
        if columns != self._columns or step < last_step:
            self._rewrite(columns, _merged(read_rows(self.path), new))
        elif step == last_step:
            self._write_last(self._last | new)
        else:
            self._last_offset = os.path.getsize(self.path)
            self._write_last(new)

    @rank_zero_only
    def rewind(self, step: int) -> None:
        """Remove the rows after `step`: a run that resumes from there logs them again."""
        if self.path.exists():
            self._open()
            kept = [row for row in read_rows(self.path) if int(row["step"]) <= step]
            self._rewrite(self._columns, kept)

    def _open(self) -> None:
        if self._file:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        rows = read_rows(self.path) if self.path.exists() else []
        self._rewrite(list(rows[0]) if rows else ["step"], rows)  # drops a row that a killed process wrote only in part

    def _rewrite(self, columns: list[str], rows: Sequence[Row]) -> None:
        lines = [_line(columns), *(_line([row.get(name, "") for name in columns]) for row in rows)]
        with atomic_file(self.path) as file:
            file.writelines(lines)
        if self._file:
            self._file.close()
        self._file = io.FileIO(self.path, "r+")
        self._columns, self._last = columns, rows[-1] if rows else {}
        self._last_offset = sum(map(len, lines[:-1]))

    def _write_last(self, row: Row) -> None:
        assert self._file is not None
        line = _line([row.get(name, "") for name in self._columns])
        self._file.seek(self._last_offset)
        self._file.write(line)
        self._file.truncate()
        self._last = row


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a metrics file by column name, "" where nothing was logged, without an incomplete last line.

    Raises ValueError if the file is of another kind.
    """
    text = path.read_text(encoding="utf-8")
    columns, *rows = csv.reader(text[: text.rfind("\n") + 1].splitlines()) if "\n" in text else [["step"]]
    if columns[0] != "step":
        raise ValueError(f"{path}: not a metrics file: the first column must be 'step', got {columns[0]!r}")
    return [dict(zip(columns, row, strict=True)) for row in rows if len(row) == len(columns)]


def _merged(rows: list[Row], new: Row) -> list[Row]:
    """Insert `new` into `rows` by step, or merge it into the row of the same step."""
    by_step = {int(row["step"]): row for row in rows}
    step = int(new["step"])
    by_step[step] = by_step.get(step, {}) | new
    return [by_step[key] for key in sorted(by_step)]


def _text(value: float) -> str:
    """Return the shortest text that reads back as the same number."""
    return repr(value) if isinstance(value, int) else repr(float(value))


def _line(cells: Sequence[str]) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(cells)
    return buffer.getvalue().encode()
