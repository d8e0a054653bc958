from __future__ import annotations

from pathlib import Path

import pytest

from diffusion_train.prepare.next_step import next_commands


def card(side: float, empty: int = 0, blank: int = 0):
    return {
        "num_samples": 10,
        "shards": {"images-000000.tar": {}},
        "captions": {"empty": empty, "examples": ["a red shoe"]},
        "images": {"shorter_side": {"median": side}, "blank_on_white": blank},
    }


@pytest.mark.parametrize(
    ("side", "empty", "recipes"),
    [
        (64, 0, ["own_images_with_text"]),
        (512, 0, ["brand", "own_images_with_text"]),
        (512, 9, ["own_images"]),
        (64, 9, ["own_images"]),
    ],
)
def test_the_recipe_fits_size_and_captions(side, empty, recipes):
    lines = next_commands(card(side, empty), Path("out"), 0.25)
    commands = [line.strip() for line in lines if line.startswith("  ")]
    shards = "\"data.shards='out/images-000000.tar'\""
    assert [command.split()[2].removeprefix("experiment=") for command in commands[1:]] == recipes
    assert all(shards in command for command in commands)
    model = " pretrained=<model>" * ("brand" in recipes)
    held_out = " data.holdout=0.25" * ("brand" in recipes)
    assert commands[0] == f"diffusion-train check{model} {shards}{held_out} out=out_checked"
    assert "<model>" not in commands[-1]


def test_white_logos_get_a_ground_that_shows_them():
    assert all("data.background=contrast" in line for line in next_commands(card(64, blank=1), Path("out"), 0.25)[1::2])
