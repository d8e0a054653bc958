from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from diffusion_train.metric.near_duplicates import MAX_DISTANCE, SIGNATURE, distances, groups, signature


def picture(number: int, side: int = 96) -> Image.Image:
    """Smooth colours, as photographs have."""
    small = np.random.default_rng(number).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)


def jpeg(image: Image.Image) -> Image.Image:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=40)
    return Image.open(out).convert("RGB")


def table(images) -> np.ndarray:
    return np.frombuffer(b"".join(map(signature, images)), SIGNATURE)


def found(signatures, **settings) -> list[list[int]]:
    return [group.tolist() for group in groups(signatures, **settings)]


@pytest.mark.parametrize(
    "change",
    [
        jpeg,
        lambda image: image.resize((48, 40), Image.Resampling.LANCZOS),
        lambda image: image.crop((1, 1, 95, 95)),
        lambda image: image,
    ],
    ids=["jpeg", "resized", "cropped", "same"],
)
def test_a_copy_is_found_and_nothing_else(change):
    images = [picture(number) for number in range(20)]
    assert found(table([*images, change(images[7]), change(images[3])])) == [[3, 21], [7, 20]]


def test_the_same_shape_in_another_colour_is_another_image():
    shape = np.zeros((32, 32, 3), np.uint8) + 255
    shape[8:24, 8:24] = (200, 0, 0)
    other = shape[..., ::-1]
    first, second = table([Image.fromarray(shape), Image.fromarray(other)])
    assert (int(first["hash"]) ^ int(second["hash"])).bit_count() <= MAX_DISTANCE
    assert found(np.array([first, second])) == []


def test_mirror_symmetry_leaves_no_bit_to_chance():
    half = np.asarray(picture(1).convert("L"))[:, :48]
    symmetric = np.concatenate([half, half[:, ::-1]], 1)
    noise = np.random.default_rng(0).integers(-2, 3, symmetric.shape)
    images = [Image.fromarray(np.clip(symmetric + n, 0, 255).astype(np.uint8)).convert("RGB") for n in (0, noise)]
    assert found(table(images)) == [[0, 1]]


def test_chains_are_one_group_and_every_pair_in_reach_is_found():
    """Against all pairs, for hashes that crowd together."""
    rng = np.random.default_rng(0)
    signatures = np.zeros(300, SIGNATURE)
    centres = rng.integers(0, 2**63, 40, dtype=np.uint64)
    signatures["hash"] = centres[rng.integers(0, 40, 300)]
    for _ in range(3):
        signatures["hash"] ^= np.uint64(1) << rng.integers(0, 64, 300, dtype=np.uint64)
    signatures["colours"] = rng.integers(0, 2, 300)[:, None, None, None] * 100

    def alike(a, b):
        bits = np.bitwise_count(signatures["hash"][a] ^ signatures["hash"][b])
        return bits <= MAX_DISTANCE and (signatures["colours"][a] == signatures["colours"][b]).all()

    expected = []
    left = set(range(300))
    while left:
        group, border = set(), {min(left)}
        while border:
            group |= border
            border = {b for b in left - group if any(alike(a, b) for a in border)}
        left -= group
        expected += [sorted(group)] if len(group) > 1 else []
    assert len(expected) > 30
    assert found(signatures) == expected


@pytest.mark.parametrize("count", [0, 1])
def test_few_samples_have_no_duplicates(count):
    assert found(np.zeros(count, SIGNATURE)) == []


def test_thousands_of_equal_images_are_one_group():
    assert [len(group) for group in groups(np.zeros(5000, SIGNATURE))] == [5000]


def test_distances_count_bits_and_levels_of_colour():
    made = np.zeros(2, SIGNATURE)
    made["hash"] = [0b1011, 0]
    made["colours"][1] = 10
    bits, colours = distances(made, made)
    assert bits.tolist() == [[0, 3], [3, 0]]
    assert colours.tolist() == [[0, 10], [10, 0]]
    assert distances(made[:0], made)[1].shape == (0, 2)
