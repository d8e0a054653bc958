from __future__ import annotations

from datetime import date

import pytest

from diffusion_train.rights.validity import expiry_date, rights_faults

TODAY = date(2026, 6, 15)


@pytest.mark.parametrize("text", ["2026-12-31", "2026/12/31", "31.12.2026", " 2026-12-31T10:00:00Z"])
def test_a_last_day_is_read(text):
    assert expiry_date(text) == date(2026, 12, 31)


def test_a_licence_may_never_end():
    assert [expiry_date(text) for text in ("", "never", "Perpetual", "n/a")] == [None] * 4


@pytest.mark.parametrize("text", ["12/31/2026", "2026-02-30", "soon", "31.12.26"])
def test_other_texts_are_refused(text):
    with pytest.raises(ValueError, match="write 2026-12-31"):
        expiry_date(text)


@pytest.mark.parametrize(
    ("last", "is_expired"),
    [("2026-06-14", True), ("2026-06-15", False), ("2999-01-01", False), (None, False), ("soon", True)],
)
def test_a_licence_holds_through_its_last_day(last, is_expired):
    for field in ("license_expires", "Expiry", "valid_until"):
        assert ("expired-license" in rights_faults({field: last}, TODAY)) is is_expired


@pytest.mark.parametrize(
    ("people", "release", "is_missing"),
    [
        ("yes", None, True),
        (2, "", True),
        ("Ada", "no", True),
        ("yes", "pending", True),
        ("yes", "MR-2024-17", False),
        (True, True, False),
        ("yes", "not needed", False),
        ("no", "no", False),
        (False, None, False),
        (0, "", False),
        (None, None, False),
        (None, "no", True),
        (None, "n/a", False),
    ],
)
def test_people_need_a_release(people, release, is_missing):
    faults = rights_faults({"people": people, "Model_Release": release}, TODAY)
    assert ("missing-release" in faults) is is_missing
