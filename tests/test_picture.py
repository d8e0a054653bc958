from __future__ import annotations

import time
from pathlib import Path

import torch
from PIL import Image

from diffusion_train import picture


def test_ends_and_middle_of_the_range_are_black_grey_and_white() -> None:
    image = picture.to_image(torch.tensor([-1.0, 0.0, 1.0, 3.0]).expand(3, 1, 4))
    assert [image.getpixel((x, 0)) for x in range(4)] == [(0,) * 3, (128,) * 3, (255,) * 3, (255,) * 3]


def test_texts_of_any_language_come_back_and_files_repeat(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        picture.save_png(Image.new("RGB", (4, 4)), tmp_path / name, {"prompt": "flag of Türkiye 🇹🇷", "seed": "3"})
    assert Image.open(tmp_path / "a.png").text == {"prompt": "flag of Türkiye 🇹🇷", "seed": "3"}
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_grid_holds_every_image_pixel_by_pixel() -> None:
    images = torch.stack([torch.full((3, 2, 2), value) for value in (-1.0, 0.0, 1.0)])
    canvas = picture.grid(images, ["a", "b " * 60, "ü"], num_columns=2, min_side=4)
    colours = {colour for _, colour in canvas.getcolors(10_000)}
    assert {(0, 0, 0), (128, 128, 128), (255, 255, 255)} <= colours
    assert canvas.getpixel((6, 6)) == (0, 0, 0)


def test_what_does_not_print_in_a_caption_is_drawn_escaped() -> None:
    image = torch.zeros(1, 3, 40, 40)
    hostile, escaped = (
        picture.grid(image, [text], 1, 160) for text in ("a\n\u202e\ud800 x\0", r"a \u202e\ud800 x\x00")
    )
    assert hostile.tobytes() == escaped.tobytes()


def test_a_long_caption_takes_no_time_to_draw() -> None:
    start = time.perf_counter()
    picture.grid(torch.zeros(1, 3, 8, 8), ["x" * 10**6], 1)
    assert time.perf_counter() - start < 1
