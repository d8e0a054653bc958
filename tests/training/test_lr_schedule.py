import pytest

from diffusion_train.training.lr_schedule import Constant, Cosine, InverseSqrt, Linear


@pytest.mark.parametrize(
    "schedule",
    [Constant(100, 10), Cosine(100, 10), Linear(100, 10), InverseSqrt(100, 10, 50)],
    ids=lambda s: type(s).__name__,
)
def test_warm_up_rises_in_equal_parts_to_one(schedule) -> None:
    rises = [schedule(step + 1) - schedule(step) for step in range(9)]
    assert rises == pytest.approx([1 / 11] * 9)
    assert schedule(10) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("schedule", "half"), [(Cosine(110, 10, 0.2), 0.6), (Linear(110, 10, 0.2), 0.6)], ids=["cosine", "linear"]
)
def test_falls_through_the_middle_to_the_last_factor_and_stays(schedule, half) -> None:
    assert schedule(60) == pytest.approx(half)
    assert schedule(110) == schedule(10_000) == pytest.approx(0.2)


def test_cosine_is_slower_than_linear_at_first() -> None:
    assert Cosine(100)(10) > Linear(100)(10)


def test_inverse_sqrt_is_constant_and_then_halves_as_steps_quadruple() -> None:
    schedule = InverseSqrt(10_000, 10, 200)
    assert schedule(200) == pytest.approx(1.0)
    assert schedule(800) == pytest.approx(0.5)
    assert schedule(3200) == pytest.approx(0.25)


@pytest.mark.parametrize("schedule", [Cosine(100, 10), Linear(100, 10)], ids=["cosine", "linear"])
def test_steps_beyond_a_horizon_of_0_are_doubted_exactly_where_the_rate_is_0(schedule) -> None:
    assert schedule.doubts(100) == []
    assert schedule(99) > 0
    (doubt,) = schedule.doubts(101)
    assert "the learning rate is 0 from step 101 to trainer.max_steps=101" in doubt
    assert schedule(100) == 0


@pytest.mark.parametrize("schedule", [Cosine(100, 10, 0.1), Constant(100), InverseSqrt(100)], ids=repr)
def test_a_schedule_without_such_a_horizon_may_go_on(schedule) -> None:
    assert schedule.doubts(100_000) == []


def test_a_warm_up_that_outlasts_the_run_is_doubted() -> None:
    assert Constant(100, 9).doubts(10) == []
    (doubt,) = Constant(100, 10).doubts(10)
    assert doubt.startswith(
        "lr_schedule.warmup_steps=10 lasts longer than trainer.max_steps=10: the learning rate reaches 0.91"
    )
    assert Constant(100, 10).doubts(1) == []
