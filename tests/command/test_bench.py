"""`diffusion-train bench` on points: the table, and that it leaves nothing behind."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from warm_process import PROGRAM, python

from diffusion_train.bench.phases import PHASES

SMALL = ["experiment=points", "data.batch_size=24", "data.num_samples=100", "network.width=16", "network.depth=1"]
QUICK = ["num_rounds=6", "round_seconds=0.02", "trainer=cpu"]


@pytest.mark.slow
def test_a_step_is_divided_and_attempts_are_compared(tmp_path: Path) -> None:
    done = python(PROGRAM, "bench", *SMALL, *QUICK, "attempts=[micro_batch,workers]", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    step = float(re.search(r"^([\d.,]+) ms a step", done.stdout, re.MULTILINE)[1].replace(",", ""))
    table, between = done.stdout.split("between the steps")
    rows = dict(re.findall(r"^  (\w[\w ]*?) +([\d.]+) ms", table, re.MULTILINE))
    assert set(rows) <= set(PHASES)
    occasional = re.findall(r"^  (\w+) .* every ([\d,]+) steps\)$", between, re.MULTILINE)
    assert dict(occasional) == {"checkpointing": "1,000", "samples": "500", "validation": "500"}
    assert {"data wait", "forward", "backward", "optimizer", "averages", "callbacks"} <= set(rows)
    assert sum(map(float, rows.values())) == pytest.approx(step, abs=0.1)
    assert "GFLOP a step" in done.stdout
    assert "data.micro_batch_size=12" in done.stdout
    assert "data.num_workers=" in done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_mistakes_are_listed(tmp_path: Path) -> None:
    done = python(PROGRAM, "bench", *SMALL, "attempts=[worker]", "num_rounds=2", cwd=tmp_path)
    assert done.returncode == 2
    assert "attempts=[worker]" in done.stderr
    assert "did you mean workers?" in done.stderr
    assert "num_rounds" in done.stderr


@pytest.mark.slow
def test_a_run_that_cannot_start_says_why(tmp_path: Path) -> None:
    done = python(PROGRAM, "bench", *SMALL, *QUICK, "trainer.precision=bf16-true", cwd=tmp_path)
    assert done.returncode == 2
    assert "trainer.precision=bf16-true: all weights are trained" in done.stderr
