from __future__ import annotations

import csv
import math
import multiprocessing
import os
import signal
from pathlib import Path

import pytest
from pytorch_lightning.utilities import rank_zero_only

from diffusion_train.logger.metrics_file import MetricsFile, read_rows


def table(run_dir: Path) -> list[list[str]]:
    with (run_dir / "metrics.csv").open(newline="") as file:
        return list(csv.reader(file))


def test_one_row_a_step_whichever_calls_bring_its_scalars(tmp_path: Path) -> None:
    log = MetricsFile(tmp_path)
    log.log_metrics({"train/loss": 0.5, "train/lr": 1e-4}, step=10)
    log.log_metrics({"train/loss": 0.25}, step=20)
    log.log_metrics({"train/lr": 2e-4}, step=20)
    assert table(tmp_path) == [["step", "train/loss", "train/lr"], ["10", "0.5", "0.0001"], ["20", "0.25", "0.0002"]]


def test_a_name_that_comes_later_becomes_a_column(tmp_path: Path) -> None:
    log = MetricsFile(tmp_path)
    log.log_metrics({"train/loss": 0.5}, step=10)
    log.log_metrics({"train/loss": 0.25}, step=20)
    log.log_metrics({"val/noise_mse": 1.5}, step=20)
    log.log_metrics({"train/loss": 0.125}, step=30)
    assert table(tmp_path) == [
        ["step", "train/loss", "val/noise_mse"],
        ["10", "0.5", ""],
        ["20", "0.25", "1.5"],
        ["30", "0.125", ""],
    ]


def test_a_shorter_value_leaves_nothing_of_the_longer_one(tmp_path: Path) -> None:
    log = MetricsFile(tmp_path)
    log.log_metrics({"a": 0.123456789}, step=1)
    log.log_metrics({"a": 1.0}, step=1)
    assert (tmp_path / "metrics.csv").read_text() == "step,a\n1,1.0\n"


def test_a_late_scalar_finds_its_step(tmp_path: Path) -> None:
    log = MetricsFile(tmp_path)
    for step in (10, 20, 30):
        log.log_metrics({"a": step / 10}, step)
    log.log_metrics({"a": 2.5}, step=20)
    log.log_metrics({"a": 1.5}, step=15)
    log.log_metrics({"a": 4.0}, step=40)
    assert [row[0:2] for row in table(tmp_path)[1:]] == [
        ["10", "1.0"],
        ["15", "1.5"],
        ["20", "2.5"],
        ["30", "3.0"],
        ["40", "4.0"],
    ]


def test_numbers_read_back_exactly(tmp_path: Path) -> None:
    values = {"a": 0.1 + 0.2, "b": 1e-300, "c": math.inf, "d": math.nan, "e": 3}
    MetricsFile(tmp_path).log_metrics(values, step=1)
    (row,) = read_rows(tmp_path / "metrics.csv")
    assert {name: repr(float(row[name])) for name in values} == {name: repr(float(v)) for name, v in values.items()}


def test_a_resumed_run_goes_on_in_the_same_file(tmp_path: Path) -> None:
    first = MetricsFile(tmp_path)
    for step in (10, 20, 30, 40):
        first.log_metrics({"a": float(step), "b": 0.0}, step)
    first.log_metrics({"c": 1.0}, step=40)
    second = MetricsFile(tmp_path)
    second.rewind(20)
    assert [row["step"] for row in read_rows(tmp_path / "metrics.csv")] == ["10", "20"]
    second.log_metrics({"a": -1.0}, step=30)
    assert [row["a"] for row in read_rows(tmp_path / "metrics.csv")] == ["10.0", "20.0", "-1.0"]


def test_rewinding_to_the_start_and_before_any_row_is_fine(tmp_path: Path) -> None:
    log = MetricsFile(tmp_path)
    log.rewind(0)
    assert not (tmp_path / "metrics.csv").exists()
    log.log_metrics({"a": 1.0}, step=5)
    log.rewind(0)
    log.log_metrics({"a": 2.0}, step=1)
    assert table(tmp_path) == [["step", "a"], ["1", "2.0"]]


@pytest.mark.parametrize("cut", range(1, 9))
def test_a_torn_last_line_is_dropped_on_going_on(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "metrics.csv"
    path.write_bytes(b"step,a\n10,1.0\n" + b"20,2.125\n"[:cut])
    MetricsFile(tmp_path).log_metrics({"a": 3.0}, step=30)
    assert path.read_text() == "step,a\n10,1.0\n30,3.0\n"


def test_a_killed_run_leaves_all_that_it_logged(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=log_and_die, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert [(row["step"], row["a"]) for row in read_rows(tmp_path / "metrics.csv")] == [("1", "1.0"), ("2", "2.0")]


def log_and_die(run_dir: Path) -> None:
    log = MetricsFile(run_dir)
    log.log_metrics({"a": 1.0}, step=1)
    log.log_metrics({"a": 2.0}, step=2)
    os.kill(os.getpid(), signal.SIGKILL)


def test_other_ranks_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    log = MetricsFile(tmp_path)
    log.log_metrics({"a": 1.0}, step=1)
    log.rewind(0)
    assert not list(tmp_path.iterdir())


def test_another_file_of_that_name_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("name,price\napple,3\n")
    with pytest.raises(ValueError, match=r"not a metrics file.*'name'"):
        MetricsFile(tmp_path).log_metrics({"a": 1.0}, step=1)
    assert (tmp_path / "metrics.csv").read_text() == "name,price\napple,3\n"
