"""The state in a checkpoint is checked whole when it is read, and everything that is wrong with it is listed."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_state import state

from diffusion_train.run_folder import step_name
from diffusion_train.training.checkpoint import checkpoint_file as ckpt
from diffusion_train.training.checkpoint.checkpoint_schema import problems


def paths(node: Any, *above: Any) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every entry of nested mappings and lists."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        yield (*above, key)
        if isinstance(value, (dict, list)):
            yield from paths(value, *above, key)


def changed(path: tuple[Any, ...], *value: Any) -> dict[str, Any]:
    """Return a state with another value at a path, or with nothing there."""
    other = copy.deepcopy(state())
    node: Any = other
    for key in path[:-1]:
        node = node[key]
    if value:
        node[path[-1]] = value[0]
    else:
        del node[path[-1]]
    return other


def name(path: tuple[Any, ...]) -> str:
    return ".".join(str(key) for key in path if not isinstance(key, int))


# Optional for a reason: an older version, an optimizer of another class, or a parameter that never had a gradient.
OPTIONAL = ("started", "processed", "ready", "exp_avg", "exp_avg_sq")


def required() -> list[tuple[Any, ...]]:
    return [path for path in paths(state()) if not _is_optional(path)]


def _is_optional(path: tuple[Any, ...]) -> bool:
    below_config = "config" in path and path[-1] != "config" and path[-1] not in state()["diffusion_train"]["config"]
    in_state = path[:3] == ("optimizer_states", 0, "state") and len(path) > 3
    return below_config or in_state or path[-1] in OPTIONAL or "identity" in path[:-1] or path[-2:-1] == ("current",)


@pytest.mark.parametrize("path", required(), ids=name)
def test_whatever_is_missing_is_named(path: tuple[Any, ...]) -> None:
    assert problems(changed(path))


@pytest.mark.parametrize("path", list(paths(state())), ids=name)
@pytest.mark.parametrize("value", [object(), torch.zeros(2, device="meta")], ids=["object", "no tensor"])
def test_a_value_of_any_other_class_is_named(path: tuple[Any, ...], value: object) -> None:
    if path[:3] == ("optimizer_states", 0, "state") and path[-1] in ("exp_avg", "exp_avg_sq"):
        pytest.skip("compared with the optimizer of the run")
    [problem, *_] = problems(changed(path, value))
    assert str(path[-1]) in problem or isinstance(path[-1], int)


WRONG = {
    "negative step": (("global_step",), -3, "global_step: must be a whole number of at least 0, got -3"),
    "true for a step": (("global_step",), True, "global_step: must be"),
    "another step": (("global_step",), 2, "diffusion_train.step: must be the global_step, 2, got 1"),
    "negative cursor": (("diffusion_train", "cursor"), -1, "diffusion_train.cursor: must be"),
    "text for the weights": (("state_dict",), "w", "state_dict: must be a mapping, got 'w'"),
    "a list for a weight": (("state_dict", "network.w"), [1.0], "state_dict.network.w: must be a tensor, got list"),
    "whole numbers for an average": (
        ("ema", "averages", 0, "w"),
        torch.arange(5000),
        "ema.averages[0].w: must be a tensor of floating-point numbers, got Tensor",
    ),
    "no average": (("ema",), {"names": [], "averages": []}, "ema: must have a name for each average"),
    "a foreign config": (("diffusion_train", "config"), {"model": {}}, "diffusion_train.config.network: missing"),
    "a tensor in the config": (
        ("diffusion_train", "config", "network"),
        {"width": torch.zeros(2)},
        "diffusion_train.config.network: must be a mapping of plain data",
    ),
    "two optimizers": (("optimizer_states",), state()["optimizer_states"] * 2, "optimizer_states: must have one item"),
    "other parameters": (
        ("optimizer_states", 0, "param_groups"),
        [{"params": [0, 1], "lr": 0.1}],
        "optimizer_states[0].param_groups: must have the 1 trained parameters, got 2",
    ),
    "state of no parameter": (
        ("optimizer_states", 0, "state"),
        {7: {}},
        "optimizer_states[0].state.7: there is no such parameter",
    ),
    "learning rate not a number": (
        ("lr_schedulers", 0, "base_lrs"),
        [float("nan")],
        "lr_schedulers[0].base_lrs[0]: must be a finite number, got nan",
    ),
    "negative time": (("callbacks", "TimeBudget"), {"seconds": -1.0}, "callbacks.TimeBudget.seconds: must be"),
    "skipped steps not a number": (("skipped_in_a_row",), torch.zeros(3), "skipped_in_a_row: must be"),
}


@pytest.mark.parametrize(("path", "value", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_value_is_named(path: tuple[Any, ...], value: object, message: str) -> None:
    assert message in "\n".join(problems(changed(path, value)))


def test_all_that_is_wrong_is_in_one_message(tmp_path: Path) -> None:
    content = {key: value for key, value in state().items() if key not in ("ema", "loops")} | {"global_step": -1}
    path = tmp_path / step_name(1)
    ckpt.AtomicCheckpointIO().save_checkpoint(content, path)
    for read in (ckpt.load, ckpt.peek, ckpt.read_facts):
        with pytest.raises(
            ValueError, match=r"step_00000001.ckpt: its state is not that of a run; use resume="
        ) as error:
            read(path)
        listed = str(error.value).splitlines()[1:]
        assert [line.split(":")[0].strip() for line in listed] == ["global_step", "loops", "ema"]


def test_a_real_state_is_right(tmp_path: Path, run_points) -> None:
    run_points(tmp_path, 2)
    assert problems(ckpt.load(tmp_path / "checkpoints" / "last.ckpt")) == []
