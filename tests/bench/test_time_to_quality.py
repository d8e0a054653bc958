"""benchmarks/time_to_quality.py: sides train in turns, and the best learning rate of a peer counts."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

CODE = """
import sys, time
from turns import Turns
def sample(file):
    time.sleep(1)
    file.write_text("samples")
turns = Turns(int(sys.argv[1]), int(sys.argv[2]), sample)
turns.start(parameters=3)
for _ in range(100):
    time.sleep(0.01)
    turns.step(16)
turns.finish()
"""


@pytest.fixture(scope="module")
def benchmarks():
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture
def trainee(benchmarks, tmp_path):
    def started(code):
        def command(goals, answers):
            return [sys.executable, "-c", code, str(goals), str(answers)]

        made.append(benchmarks("turns").Trainee(command, tmp_path, {"PYTHONPATH": str(BENCHMARKS)}, tmp_path / "log"))
        return made[-1]

    made = []
    yield started
    for one in made:
        one.stop()


@pytest.mark.slow
def test_a_trainee_trains_for_its_slice_and_draws_while_its_clock_stands(trainee, tmp_path):
    one = trainee(CODE)
    first = one.train(0.1)
    assert one.facts == {"parameters": 3}
    assert first.seconds >= 0.1
    assert first.samples == 16 * first.steps > 0
    one.sample(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "samples"
    assert one.train(0.1) == first
    second = one.train(0.2)
    assert not second.done
    assert 0.2 <= second.seconds < 1
    assert one.train(float("inf")).done
    one.wait()


def test_a_trainee_that_ends_early_fails_with_its_log(trainee, benchmarks):
    with pytest.raises(benchmarks("turns").Failed, match=r"exit code 3: .*log"):
        trainee("raise SystemExit(3)").train(1)


def test_the_best_learning_rate_counts_at_each_time(benchmarks, tmp_path):
    report = benchmarks("time_to_quality_report")
    rows = [
        report.Row("peer/small", 8, 1e-3, kid=0.7),
        report.Row("peer/small", 3, 1e-3, kid=1.5),
        report.Row("peer/small", 3, 3e-4, kid=1.2),
        report.Row("peer/small", 8, 3e-4, failure="exit code 1: log"),
        report.Row("ours", 3, parameters=1_780_000, kid=0.6, retrieval=0.25, held_kid=0.7, held_retrieval=0.5),
    ]
    assert [(row.name, row.minutes) for row in report.best(rows)] == [
        ("peer/small@0.0003", 3),
        ("ours", 3),
        ("peer/small@0.001", 8),
    ]
    text = report.table(rows, real=0.01)
    assert "| 3 | ours | 1.78 M | 0.0 s | 0 | 0 | 0.600 | 25.0 % | 0.700 | 50.0 % |" in text
    assert len({line.count("|") for line in text.splitlines()}) == 1
    report.write_report(rows, 0.01, {"slice": 30}, tmp_path)
    assert len(json.loads((tmp_path / "results.json").read_text())["rows"]) == 5
    assert (tmp_path / "kid.png").stat().st_size
    assert "<svg" in (tmp_path / "kid.svg").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["diffusers/unconditional", "diffusers/text-to-image", "denoising-diffusion-pytorch"])
def test_a_small_peer_trains_and_draws(benchmarks, name):
    import torch

    if name.startswith("denoising"):
        pytest.importorskip("ema_pytorch")
    peers = benchmarks("time_to_quality_peers")
    text = {"text": torch.randn(4, 16, 384), "text_mask": torch.ones(4, 16, dtype=torch.bool)}
    null = {key: rows[:1] for key, rows in text.items()}
    peer = peers.PEERS[name](True, 1e-3, 2, {"images": torch.zeros(4, 3, 32, 32), "cond": text, "null": null})
    assert 1.5e6 < sum(parameter.numel() for parameter in peer.network.parameters()) < 2.1e6
    before = next(peer.network.parameters()).clone()
    for _ in range(2):
        peer.step(torch.zeros(4, 3, 32, 32), text)
    assert not torch.equal(before, next(peer.network.parameters()))
    assert peer.sample(4, text).shape == (4, 3, 32, 32)
