from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from diffusion_train.pretrained.model_license import license_of, license_of_file


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("---\nlicense: mit\n---\n", "mit"),
        ("---\nlicense: other\nlicense_name: stability\n---\n", "stability"),
        ("---\nlicense: other\n---\n", "other"),
        ("# no head\n", None),
        ("---\nlicense: [\n---\n", None),
        (f"---\nlicense: {'[' * 5000}\n---\n", None),
        ("---\n- a list\n---\n", None),
    ],
    ids=["plain", "named", "other", "no head", "torn", "deep", "list"],
)
def test_of_a_folder_by_the_head_of_its_card(tmp_path: Path, text: str, expected: str | None) -> None:
    assert license_of(tmp_path) is None
    (tmp_path / "README.md").write_text(text)
    assert license_of(tmp_path) == expected


def test_of_a_single_file_by_its_metadata(tmp_path: Path) -> None:
    for name, metadata in {"told": {"modelspec.license": "CreativeML Open RAIL-M"}, "silent": None}.items():
        save_file({"x": torch.zeros(1)}, tmp_path / name, metadata)
    assert license_of_file(tmp_path / "told") == "CreativeML Open RAIL-M"
    assert license_of_file(tmp_path / "silent") is None
