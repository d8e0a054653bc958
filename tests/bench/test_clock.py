"""The phases of a step add up to the whole, and each counts only its own time."""

from __future__ import annotations

import pytest

from diffusion_train.bench.clock import CpuTimer, PhaseClock
from diffusion_train.bench.phases import PhaseProfiler


class Ticks:
    """A clock that goes on by one at each mark."""

    def __init__(self) -> None:
        self.now = 0

    def mark(self) -> int:
        self.now += 1
        return self.now

    def seconds(self, start: int, end: int) -> float:
        return end - start


def test_a_phase_inside_another_one_pauses_it() -> None:
    clock = PhaseClock(timer := Ticks())
    clock.enter("before the start")
    clock.leave()
    clock.start()  # 1
    with clock.phase("optimizer"):  # 2
        timer.now += 10
        clock.timed("averages", lambda: None)()  # 13 and 14
        with clock.phase("optimizer"):
            timer.now += 5
    assert clock.stop() == {"other": 2, "optimizer": 17, "averages": 1}  # ends at 20, 21


def test_a_phase_that_fails_ends() -> None:
    clock = PhaseClock(Ticks())
    clock.start()
    with pytest.raises(ZeroDivisionError):
        clock.timed("forward", lambda: 1 // 0)()
    assert clock.stop() == {"other": 2, "forward": 1}


def test_they_add_up_to_the_wall_clock() -> None:
    clock = PhaseClock(timer := CpuTimer())
    start = timer.mark()
    clock.start()
    for phase in ("data wait", "forward", "backward") * 100:
        with clock.phase(phase):
            sum(range(1000))
    assert sum(clock.stop().values()) == pytest.approx(timer.seconds(start, timer.mark()), rel=0.05)


def test_lightnings_actions_are_phases() -> None:
    clock = PhaseClock(Ticks())
    profiler = PhaseProfiler(clock)
    clock.start()
    for action in (
        "[_TrainingEpochLoop].train_dataloader_next",
        "[Strategy]SingleDeviceStrategy.batch_to_device",
        "[Callback]Scalars.on_train_batch_end",
        "run_training_batch",
    ):
        with profiler.profile(action):
            pass
    assert clock.stop() == {"other": 4, "data wait": 1, "transfer": 1, "callbacks": 1}
