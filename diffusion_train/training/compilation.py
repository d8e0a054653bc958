"""Whether `compile=auto` compiles a network: only if the time that it saves in the run is ten times what it costs.

Compilation takes a minute or more, so it is not tried if a bold guess of the gain cannot repay a modest guess of the
cost. Otherwise the network is compiled, which is the cost, and the gain is measured.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from time import perf_counter

from torch import nn

REPAID = 10
BOLD_GAIN = 0.3  # fraction of the time of a pass
# Seconds of compilation for each operation of a pass. 0.15 to 0.3 on two cores of a CPU; on a GPU it is assumed.
MODEST_COST = {"cpu": 0.15}
_ON_GPU = 0.05
_NUM_PAIRS = 7


def is_worth_trying(num_operations: int, device: str, seconds_left: float) -> bool:
    """Whether compilation could be repaid in the `seconds_left` of the run."""
    return BOLD_GAIN * seconds_left >= REPAID * MODEST_COST.get(device, _ON_GPU) * num_operations


def repays(network: nn.Module, seconds: Callable[[], float], seconds_left: float) -> bool:
    """Compile the network, keep that if it is repaid, and return whether it is. `seconds` runs and times a pass.

    Raises what compilation raises, with the network as it was.
    """
    plain = seconds()
    network.compile()
    compiled = network._compiled_call_impl
    try:
        start = perf_counter()
        cost = seconds() - plain
        seconds()  # may compile again, for a shape that changes
        cost = max(cost, perf_counter() - start - 2 * plain)
        gains = []
        for _ in range(_NUM_PAIRS):
            network._compiled_call_impl = None
            plain = seconds()
            network._compiled_call_impl = compiled
            gains.append(1 - seconds() / plain)
        repaid = median(gains) * seconds_left >= REPAID * cost
    except BaseException:
        network._compiled_call_impl = None
        raise
    if not repaid:
        network._compiled_call_impl = None
    return repaid
