from __future__ import annotations

import warnings

from diffusion_train.utils.quiet import plain_warnings


def test_a_warning_is_one_line_without_code():
    warning = UserWarning("the captions are cut; shorten them")
    with plain_warnings():
        assert warnings.formatwarning(warning, UserWarning, "text.py", 92) == f"warning: {warning}\n"
    assert "text.py:92: UserWarning" in warnings.formatwarning(warning, UserWarning, "text.py", 92)
