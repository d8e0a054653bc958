from __future__ import annotations

import os
import signal
import time

import pytest

from diffusion_train.utils.process.workers import WorkerDied, Workers


def double(number: int) -> int:
    time.sleep(0.01 * (number % 3))
    return 2 * number


def fail(number: int) -> None:
    raise ValueError(f"no {number}")


def die_half_way_through_a_large_answer(number: int) -> bytes:
    if number == 3:
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        time.sleep(0.19)
    return bytes(1 << 26)


def process_id(number: int) -> int:
    return os.getpid()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_results_come_in_the_order_of_the_tasks(num_workers):
    with Workers(num_workers) as workers:
        assert list(workers.map(double, range(20))) == list(range(0, 40, 2))
        seen = set(workers.map(process_id, range(8)))
    assert len(seen) <= max(1, num_workers)
    assert (os.getpid() in seen) == (num_workers == 0)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_errors_come_back(num_workers):
    with Workers(num_workers) as workers, pytest.raises(ValueError, match="no 0"):
        list(workers.map(fail, range(3)))
    with pytest.raises(ValueError, match="no 1"), Workers(num_workers) as workers:
        workers.later(fail, 1)


def test_only_some_tasks_are_taken_ahead():
    taken = []

    def tasks():
        for number in range(100):
            taken.append(number)
            yield number

    with Workers(1) as workers:
        results = workers.map(double, tasks())
        next(results)
        assert len(taken) <= 3
        results.close()


def test_a_killed_worker_is_told_soon():
    start = time.monotonic()
    with pytest.raises(WorkerDied, match="memory ran out"), Workers(2) as workers:
        list(map(len, workers.map(die_half_way_through_a_large_answer, range(50))))
    assert time.monotonic() - start < 60


def test_its_processes_end_with_it():
    with Workers(2) as workers:
        ids = set(workers.map(process_id, range(20)))
    deadline = time.monotonic() + 10
    while any(os.path.exists(f"/proc/{number}/exe") for number in ids) and time.monotonic() < deadline:
        time.sleep(0.05)
    for number in ids:
        with pytest.raises((ProcessLookupError, FileNotFoundError)):
            os.readlink(f"/proc/{number}/exe")
