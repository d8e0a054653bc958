"""Which process is the first, by the variables of launchers."""

from __future__ import annotations

import pytest

from diffusion_train.utils.exit_code import Exit
from diffusion_train.utils.process.launcher import _COUNTS, _RANKS, STARTED_BY, common_code, first_process

STALE = {"NODE_RANK": "1", "MASTER_ADDR": "node0", "MASTER_PORT": "1234"}


@pytest.mark.parametrize(
    ("variables", "num_nodes", "first"),
    [
        ({}, 1, True),
        ({"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}, 1, True),
        ({"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}, 1, False),
        ({"RANK": "2", "LOCAL_RANK": "0", "WORLD_SIZE": "4"}, 2, False),
        ({"LOCAL_RANK": "1", "WORLD_SIZE": "2"}, 1, False),
        ({"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4"}, 1, False),
        ({"NODE_RANK": "1"}, 1, True),
        (STALE, 1, True),
        ({**STALE, "WORLD_SIZE": "1"}, 1, True),
        ({**STALE, "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}, 1, True),
        ({**STALE, "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2"}, 1, True),
        ({"RANK": "1"}, 1, True),
        (STALE, 2, False),
        ({**STALE, "NODE_RANK": "0"}, 2, True),
        ({**STALE, "LOCAL_RANK": "0", "WORLD_SIZE": "4"}, 2, False),
    ],
    ids=str,
)
def test_the_first_process(monkeypatch, variables, num_nodes, first):
    """A rank without a number of processes is left over, except that of a node that was started by hand."""
    for name in (*_RANKS, *_COUNTS, *STALE, STARTED_BY):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert first_process(num_nodes) is first
    if num_nodes == 1:
        assert common_code(Exit.STOPPED) == (Exit.STOPPED if first else Exit.DONE)
