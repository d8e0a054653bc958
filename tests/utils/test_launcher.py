"""Which process is the first, by the variables of launchers."""

from __future__ import annotations

import pytest

from diffusion_train.utils.process.launcher import _RANKS, first_process


@pytest.mark.parametrize(
    ("variables", "first"),
    [
        ({}, True),
        ({"RANK": "0", "LOCAL_RANK": "0"}, True),
        ({"RANK": "1", "LOCAL_RANK": "1"}, False),
        ({"SLURM_PROCID": "3"}, False),
        ({"NODE_RANK": "1"}, True),
        ({"NODE_RANK": "1", "MASTER_ADDR": "node0"}, False),
        ({"NODE_RANK": "0", "MASTER_ADDR": "node0"}, True),
    ],
    ids=str,
)
def test_the_first_process(monkeypatch, variables, first):
    for name in (*_RANKS, "NODE_RANK", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert first_process() is first
