"""The environment of all tests, and their common fixtures."""

from __future__ import annotations

import own_environment

own_environment.enter()  # before torch is imported

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """The fixtures load torch and Lightning, which the process that hands tests to workers does not need."""
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", default=None):
        for name in ("points_runs", "shard_fixtures"):
            config.pluginmanager.import_plugin(name)
