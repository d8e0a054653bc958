from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _private_cache(private_cache: None) -> None:
    """Every test here."""
