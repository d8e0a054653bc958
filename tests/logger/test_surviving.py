"""A logger that fails is dropped with a warning, wherever it fails; the run and its own record go on."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning.loggers import Logger

from diffusion_train.logger.metrics_file import MetricsFile
from diffusion_train.logger.surviving import _METHODS, surviving


class Fragile(Logger):
    """Fails in one of its methods, and counts the calls of that one."""

    name, version = "fragile", "0"

    def __init__(self, method: str) -> None:
        super().__init__()
        self.method, self.calls = method, 0

    def _call(self, method: str) -> None:
        if method == self.method:
            self.calls += 1
            raise ConnectionError("no server")

    @property
    def experiment(self) -> Any:
        return self._call("experiment")


for method in _METHODS:
    setattr(Fragile, method, lambda self, *args, method=method, **kwargs: self._call(method))
Fragile.__abstractmethods__ = frozenset()


@pytest.mark.parametrize("method", [*_METHODS, "experiment"])
def test_no_method_raises_and_the_first_error_is_the_last(method: str) -> None:
    logger = surviving(Fragile(method))
    assert isinstance(logger, Fragile)
    with pytest.warns(UserWarning, match=r"^Fragile: ConnectionError: no server; the run continues without it"):
        logger.experiment if method == "experiment" else getattr(logger, method)()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in _METHODS:
            getattr(logger, name)()
        assert logger.experiment is None
    assert logger.calls == 1


def test_the_runs_own_record_stays_as_it_is(tmp_path: Path) -> None:
    logger = MetricsFile(tmp_path)
    assert type(surviving(logger)) is MetricsFile
    with pytest.raises(AssertionError):
        surviving(logger).log_metrics({"a": 1.0})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", ["experiment", "log_metrics", "log_graph", "save", "finalize"])
def test_a_run_goes_on_wherever_lightning_calls_it(monkeypatch, run_points, tmp_path: Path, method: str) -> None:
    monkeypatch.setattr("points_runs.MetricsFile", lambda run_dir: [surviving(Fragile(method)), MetricsFile(run_dir)])
    run_points(tmp_path, 3)
    with (tmp_path / "metrics.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["1", "2", "3"]
