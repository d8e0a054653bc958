"""Check, before the first step, that the network accepts every shape that images can have."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from diffusion_train.data.order.order import Shape
from diffusion_train.data.order.resolution import Resolution

LatentShape = Callable[[tuple[int, ...]], tuple[int, ...]]


def check_shapes(size: int, resolution: Resolution, factor: int, latent_shape: LatentShape) -> None:
    """Raises ValueError for image shapes whose latents do not have sides divisible by the network's `factor`.

    `size` is `data.image_size`. `latent_shape` raises ValueError for shapes that the autoencoder does not accept.
    """

    def takes(shape: Shape) -> bool:
        return not any(side % factor for side in latent_shape((3, *shape))[-2:])

    def takes_square(side: int) -> bool:
        with suppress(ValueError):
            return takes((side, side))
        return False

    wrong = []
    squares = {"data.image_size": {size}, "data.resolution": set(resolution.sizes) - {size}}
    for key, sizes in squares.items():
        for side in sorted(side for side in sizes if not takes((side, side))):
            near = " or ".join(map(str, _accepted_sides(side, takes_square)))
            wrong.append(
                f"{key}={side}: the network needs images (or latents) with sides divisible by {factor}; use {near}"
            )
    shapes = {shape for one in resolution.sizes for shape in resolution.ratios.shapes(one)}
    if not wrong and (stretched := sorted(shape for shape in shapes if not takes(shape))):
        listed = ", ".join(f"{width}x{height}" for height, width in stretched[:3])
        divisor = resolution.ratios.divisor
        use = next(side for side in range(divisor, 2**16) if takes_square(side))
        wrong.append(
            f"data.buckets.divisor={divisor}: gives images of {listed}{', ...' if len(stretched) > 3 else ''}, but the "
            f"network needs images (or latents) with sides divisible by {factor}; use data.buckets.divisor={use}, "
            "and image sizes that are multiples of it"
        )
    if wrong:
        raise ValueError("\n".join(wrong))


def _accepted_sides(side: int, takes: Callable[[int], bool]) -> list[int]:
    """Return the nearest sides below and above that are accepted."""
    below = next(([number] for number in range(side - 1, 0, -1) if takes(number)), [])
    return [*below, next(number for number in range(side + 1, side + 2**16) if takes(number))]
