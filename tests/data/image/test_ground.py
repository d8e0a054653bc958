from __future__ import annotations

import io

import pytest
from PIL import Image

from diffusion_train.data.image.decode import decode_image
from diffusion_train.data.image.ground import BLACK, WHITE, check_ground, is_blank
from diffusion_train.data.image.transform import ImageTransform


def logo(*colours: tuple[int, int, int, int]) -> bytes:
    """Squares of these colours on nothing."""
    image = Image.new("RGBA", (40, 20))
    for number, colour in enumerate(colours):
        image.paste(colour, (10 * number + 2, 2, 10 * number + 8, 8))
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize(
    ("colours", "ground"),
    [
        ([(255, 255, 255, 255)], BLACK),
        ([(248, 250, 255, 255)], BLACK),
        ([(255, 255, 255, 120)], BLACK),
        ([(0, 0, 0, 255)], WHITE),
        ([(255, 255, 255, 255), (200, 30, 30, 255)], WHITE),
        ([(255, 240, 0, 255)], WHITE),
        ([], WHITE),
    ],
    ids=["white", "nearly-white", "half-white", "black", "white-and-red", "yellow", "empty"],
)
def test_contrast_is_white_unless_nothing_shows_on_it(colours, ground):
    data = logo(*colours)
    assert decode_image(data, "contrast").tobytes() == decode_image(data, ground).tobytes()
    assert is_blank(decode_image(data)) is (ground == BLACK or not colours)


def test_an_opaque_image_has_no_ground():
    out = io.BytesIO()
    Image.new("RGB", (4, 4), "white").save(out, "PNG")
    assert decode_image(out.getvalue(), "contrast").getpixel((0, 0)) == WHITE


def test_the_first_frame_of_an_animation_lies_on_the_ground_that_shows_it():
    frames = [Image.new("RGBA", (20, 20)) for _ in range(2)]
    for frame in frames:
        frame.paste((255, 255, 255, 255), (5, 5, 10, 10))
    out = io.BytesIO()
    frames[0].save(out, "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    image = decode_image(out.getvalue(), "contrast")
    assert (image.getpixel((0, 0)), image.getpixel((7, 7))) == (BLACK, WHITE)


def test_other_grounds_are_refused():
    for wrong in ([255, 255], [0, 0, 256], "black"):
        with pytest.raises(ValueError, match=r"data\.background=.*or contrast"):
            check_ground(wrong)
    assert ImageTransform(8, background="contrast").without_augmentation().background == "contrast"
