"""Whether the rights of an image hold on a day: its licence has not expired, and the people in it have agreed.

The fields are columns of a table or fields of a sample's JSON; the case of their names does not matter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from diffusion_train.rights.license import is_empty

EXPIRY_FIELDS = ("license_expires", "licence_expires", "expires", "expiry", "expiry_date", "valid_until")
PEOPLE_FIELDS = ("people", "persons", "has_people")
RELEASE_FIELDS = ("model_release", "model_releases", "people_release", "release")
_NEVER = {"never", "none", "no", "unlimited", "perpetual", "n/a", "-", "null"}
_NO = {"", "no", "n", "0", "false", "none", "null", "nobody", "missing", "pending", "-", "?", "unknown", "n/a", "na"}
_NOBODY = {"n/a", "na", "not needed", "not required", "not applicable"}  # as a release: nobody needs one
_YEAR_FIRST = re.compile(r"(?P<year>\d{4})[-/.](?P<month>\d{1,2})[-/.](?P<day>\d{1,2})(?:[T ].*)?")
_DAY_FIRST = re.compile(r"(?P<day>\d{1,2})\.(?P<month>\d{1,2})\.(?P<year>\d{4})")


def expiry_date(text: str) -> date | None:
    """Return the last day of a licence, None if it never ends.

    Raises ValueError for what is not a date: 2026-12-31, 2026/12/31 or 31.12.2026 (12/31/2026 is ambiguous).
    """
    text = text.strip()
    if is_empty(text) or text.casefold() in _NEVER:
        return None
    match = _YEAR_FIRST.fullmatch(text) or _DAY_FIRST.fullmatch(text)
    try:
        return date(*(int(match[part]) for part in ("year", "month", "day"))) if match else _refuse(text)
    except ValueError:
        return _refuse(text)


def expiry_mistake(text: str) -> str:
    """Return what is wrong with the last day of a licence, "" if nothing is."""
    try:
        expiry_date(text)
    except ValueError as error:
        return str(error)
    return ""


def iso_date(text: str) -> str:
    """Return the last day of a licence as 2026-12-31, "" if it never ends, and unchanged what is not a date."""
    if expiry_mistake(text):
        return text
    last = expiry_date(text)
    return last.isoformat() if last else ""


def rights_faults(facts: Mapping[str, Any], today: date) -> dict[str, str]:
    """Return rule -> detail for the rights in a sample's metadata that do not hold:
    expired-license, missing-release.
    """
    by_name = {str(name).casefold(): str(value).strip() for name, value in facts.items() if value is not None}
    by_name = {name: text for name, text in by_name.items() if not is_empty(text)}
    faults = {}
    try:
        last = expiry_date(_first(by_name, EXPIRY_FIELDS))
        if last is not None and last < today:
            faults["expired-license"] = f"expired after {last.isoformat()}"
    except ValueError as error:
        faults["expired-license"] = str(error)
    people, release = (_first(by_name, names).casefold() for names in (PEOPLE_FIELDS, RELEASE_FIELDS))
    says_none = bool(release) and release in _NO
    if release not in _NOBODY and (says_none or not release) and (people not in _NO or (says_none and not people)):
        faults["missing-release"] = f"people={people or 'not stated'}, model_release={release or 'not stated'}"
    return faults


def _first(by_name: Mapping[str, str], names: Sequence[str]) -> str:
    return next((by_name[name] for name in names if name in by_name), "")


def _refuse(text: str) -> date:
    raise ValueError(f"license_expires={text[:40]!r} is not a date; write 2026-12-31, or never")
