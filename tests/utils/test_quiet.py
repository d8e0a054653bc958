"""What Lightning warns of is silenced; what this package warns of is not."""

from __future__ import annotations

import ast
import warnings
from pathlib import Path

from diffusion_train.utils.quiet import plain_warnings

PACKAGE = Path(__file__).parents[2] / "diffusion_train"


def test_no_warning_counts_as_its_callers() -> None:
    """A callback's caller is Lightning, whose warnings are silenced by the file that they are attributed to."""
    levels = {
        f"{file.relative_to(PACKAGE)}:{call.lineno}": [
            ast.unparse(k.value) for k in call.keywords if k.arg == "stacklevel"
        ]
        for file in PACKAGE.rglob("*.py")
        for call in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "warnings.warn"
    }
    assert len(levels) > 5
    assert {where: level for where, level in levels.items() if level != ["1"]} == {}


def test_a_warning_is_one_line_without_code():
    warning = UserWarning("the captions are cut; shorten them")
    with plain_warnings():
        assert warnings.formatwarning(warning, UserWarning, "text.py", 92) == f"warning: {warning}\n"
    assert "text.py:92: UserWarning" in warnings.formatwarning(warning, UserWarning, "text.py", 92)
