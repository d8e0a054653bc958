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
