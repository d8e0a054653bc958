"""What watches training must not change it."""

import csv
import io
import math
import re
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from diffusion_train.autoencoder.identity import Identity
from diffusion_train.callbacks.noise_levels import NoiseLevels
from diffusion_train.callbacks.progress import Progress
from diffusion_train.callbacks.sample_scatter import SampleScatter
from diffusion_train.callbacks.scalars import noise_error
from diffusion_train.callbacks.scheduled import Every, Scheduled
from diffusion_train.callbacks.throughput import Throughput
from diffusion_train.callbacks.validation import Validation
from diffusion_train.data.points import PointsDataset
from diffusion_train.guidance.none import NoGuidance
from diffusion_train.sampler.ddim import DDIM
from diffusion_train.sampler.grid import Uniform


def rows(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def column(run_dir: Path, name: str) -> dict[int, float]:
    return {int(row["step"]): float(row[name]) for row in rows(run_dir) if row.get(name)}


def test_sampling_and_validating_leave_training_bit_identical(tmp_path: Path, run_points) -> None:
    # ancestral sampling draws noise at every step
    scatter = SampleScatter(
        tmp_path / "b", DDIM(3, Uniform(), eta=1.0), NoGuidance(), Every(2, first=1), num_samples=16
    )
    watched, recorded_watched = run_points(
        tmp_path / "b", 6, callbacks=(scatter, Validation(Every(2), num_samples=3), NoiseLevels(3), Throughput())
    )
    alone, recorded = run_points(tmp_path / "a", 6)
    assert all(map(torch.equal, recorded.losses, recorded_watched.losses))
    assert all(map(torch.equal, alone.network.state_dict().values(), watched.network.state_dict().values()))
    assert [path.name for path in sorted((tmp_path / "b" / "samples").iterdir())] == [
        f"step_{step:08d}.png" for step in (1, 2, 4, 6)
    ]
    Image.open(tmp_path / "b" / "samples" / "step_00000006.png").verify()


def test_validation_is_a_function_of_the_weights_alone(tmp_path: Path, run_points) -> None:
    validation = Validation(Every(2), num_samples=3, batch_size=7)
    run_points(tmp_path / "a", 6, callbacks=(validation,), lr=0.0)
    raw, averaged = (column(tmp_path / "a", f"val/noise_mse{suffix}") for suffix in ("", "_ema"))
    assert sorted(raw) == [2, 4, 6]
    assert len(set(raw.values())) == 1
    assert raw == pytest.approx(averaged)
    other = Validation(Every(2), num_samples=3, batch_size=24)
    run_points(tmp_path / "b", 6, callbacks=(other,), lr=0.0)
    assert column(tmp_path / "b", "val/noise_mse") == pytest.approx(raw)


def test_validation_of_an_untrained_network_is_that_of_predicting_zero(tmp_path: Path, run_points) -> None:
    """v = 0 means noise = sigma * xt, whose error alpha^2 * (mean of (sigma * x0 - alpha * noise)^2) is known."""
    run_points(tmp_path, 1, callbacks=(Validation(Every(1), num_samples=5, num_levels=2, max_log_snr=0.0),), lr=0.0)
    assert 0.25 * 0.1 < column(tmp_path, "val/noise_mse")[1] < 0.25 * 4  # at log-SNR 0: alpha^2 = 1/2, twice


@pytest.mark.filterwarnings("ignore:validation leaves out")
def test_validation_leaves_out_samples_that_are_not_finite(tmp_path: Path, run_points, monkeypatch) -> None:
    """The errors of the others stay as they are, whatever batches they are in."""
    errors: dict[str, list[float]] = {}
    moments, of_rows = Identity.moments, Validation._errors

    def recorded(self, *given):
        errors.setdefault(name, []).extend((values := of_rows(self, *given)).tolist())
        return values

    monkeypatch.setattr(Validation, "_errors", recorded)
    first = PointsDataset("two_moons", 40, num_holdout=5).holdout().points[:, 0]
    for name, most in {"whole": 9.0, "some": float(first.median()), "none": -9.0}.items():
        monkeypatch.setattr(
            Identity, "moments", lambda self, x, most=most: torch.where(x[:, :1] > most, math.nan, moments(self, x))
        )
        validation = Validation(Every(1), num_samples=5, num_levels=2, batch_size=3)
        run_points(tmp_path / name, 1, callbacks=(validation,), lr=0.0)
    finite = [errors["whole"][row] for row in range(10) if first[row // 2] <= first.median()]
    assert errors["some"][:6] == pytest.approx(finite)
    assert column(tmp_path / "some", "val/noise_mse")[1] == pytest.approx(sum(finite) / 6)
    assert column(tmp_path / "some", "val/left_out") == {1: 2}
    assert "none" not in errors
    assert math.isnan(column(tmp_path / "none", "val/noise_mse")[1])
    assert column(tmp_path / "none", "val/left_out") == {1: 5}
    assert column(tmp_path / "whole", "val/left_out") == {}


def test_validation_encodes_a_sample_once(tmp_path: Path, run_points, monkeypatch) -> None:
    rows = []
    plain = Identity.moments
    monkeypatch.setattr(Identity, "moments", lambda self, x: rows.append(len(x)) or plain(self, x))
    run_points(tmp_path, 1, callbacks=(Validation(Every(1), num_samples=5, num_levels=4, batch_size=2),))
    assert rows == [12, 2, 2, 1]  # the training batch, then the held-out samples for all levels and averages


def test_noise_levels_add_up_to_the_mean(tmp_path: Path, run_points) -> None:
    _, recorded = run_points(tmp_path, 4, callbacks=(NoiseLevels(every_n_steps=4, num_levels=1),))
    losses = column(tmp_path, "train/noise_mse")
    assert column(tmp_path, "train_by_t/0.0-1.0")[4] == pytest.approx(sum(losses.values()) / 4, rel=1e-5)
    assert len(recorded.losses) == 4


def test_throughput_is_positive_and_waiting_is_a_share(tmp_path: Path, run_points) -> None:
    run_points(tmp_path, 3, callbacks=(Throughput(),))
    assert all(value > 0 for value in column(tmp_path, "perf/samples_per_second").values())
    assert all(0 <= value <= 1 for value in column(tmp_path, "perf/data_wait").values())


def test_an_error_while_sampling_leaves_the_networks_own_weights(tmp_path: Path, run_points) -> None:
    class Broken(DDIM):
        def sample(self, *args):
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        run_points(
            tmp_path / "a",
            6,
            callbacks=(SampleScatter(tmp_path, Broken(3, Uniform()), NoGuidance(), Every(4)),),
            every_n_steps=4,
        )
    alone, _ = run_points(tmp_path / "b", 4)
    saved = torch.load(tmp_path / "a" / "checkpoints" / "step_00000004.ckpt", weights_only=True)["state_dict"]
    for name, value in alone.network.state_dict().items():
        assert torch.equal(saved[f"network.{name}"], value)


@pytest.mark.parametrize(
    ("every", "steps"),
    [
        (Every(4), [4, 8, 10]),
        (Every(4, at_end=False), [4, 8]),
        (Every(0), [10]),
        (Every(5, first=2), [2, 5, 10]),
        (Every(0, at_end=False), []),
    ],
    ids=["interval and end", "no end", "end alone", "early one", "never"],
)
def test_when_callbacks_act(every: Every, steps: list[int]) -> None:
    class At:
        max_steps = 10

        def __init__(self, step: int) -> None:
            self.global_step = step

    acted = [step for step in range(1, 11) if every.during(At(step))]
    assert acted + [10] * every.last(At(10)) == steps


def test_progress_tells_step_loss_speed_and_time_left(tmp_path: Path, run_points, capfd) -> None:
    run_points(tmp_path, 3, callbacks=(Throughput(), Progress(every_n_seconds=0)))
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("step ")]
    assert len(lines) == 3
    assert re.fullmatch(r"step 3  loss \d+\.\d{4}  [\d,]+ samples/s  0:00:00 left", lines[-1])


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_line_on_a_terminal_begins_with_the_step(tmp_path: Path, run_points, monkeypatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    run_points(tmp_path, 3, callbacks=(Progress(),))
    assert re.search(r"\| step 3  loss [\d.]+  0:00:00 left", sys.stderr.getvalue())
    assert "| ," not in sys.stderr.getvalue()


class Slow(Scheduled):
    title = "drawing"

    def act(self, trainer, module) -> None:
        """Take a minute, as far as the clock below goes."""
        clock[0] += 60


clock = [0.0]


def test_the_time_left_includes_what_comes_after_the_last_step(tmp_path: Path, run_points, monkeypatch, capfd) -> None:
    """By name until it was done once, and then by the time that it took; the report cannot be measured."""
    for module in ("progress", "scheduled"):
        monkeypatch.setattr(f"diffusion_train.callbacks.{module}.monotonic", lambda: clock[0])
    progress, never = Progress(every_n_seconds=-1, report=True), Slow(Every(at_end=False))
    run_points(tmp_path, 3, callbacks=(progress, Slow(Every(first=1)), never))
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("step ")]
    left = [line.rpartition("  ")[2] for line in lines]
    assert left == ["0:00:00 + drawing, report left", "0:01:30 + report left", "0:01:00 + report left"]


def test_a_row_with_little_noise_does_not_hide_the_others() -> None:
    """Above 1, the error of a network that predicts no noise at all, it is counted as 1."""
    error = noise_error({"noise_mse": torch.tensor([0.25, 1452.0, float("nan")])})
    assert error.tolist()[:2] == [0.25, 1.0]
    assert error[2].isnan()
