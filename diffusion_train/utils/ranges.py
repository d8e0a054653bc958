"""Check the ranges of numeric settings."""

from __future__ import annotations

from math import isfinite


def at_least(least: float | None, **settings: float | None) -> None:
    """Raise ValueError that names all settings that are not finite or below `least`. Settings may be None."""
    wrong = [
        f"{name}={value}: must be "
        f"{f'at least {least:g}' if least is not None and isfinite(value) else 'a finite number'}"
        for name, value in settings.items()
        if value is not None and not (isfinite(value) and (least is None or value >= least))
    ]
    if wrong:
        raise ValueError("\n".join(wrong))


def fraction(**settings: float) -> None:
    """Raise ValueError that names all settings that are not from 0 to 1."""
    if wrong := [f"{name}={value:g}: must be in [0, 1]" for name, value in settings.items() if not 0 <= value <= 1]:
        raise ValueError("\n".join(wrong))
