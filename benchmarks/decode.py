"""What decoding costs on one core: simplejpeg against Pillow, the whole way to a tensor, and the header alone.

    python benchmarks/decode.py

Milliseconds of processor time, the least of several runs, from the bytes of a photograph (JPEG quality 90) to 256 x 256
pixels.
"""

from __future__ import annotations

import io
import time
import timeit
from collections.abc import Callable

import matplotlib
import simplejpeg
import torch
from PIL import Image

from diffusion_train.data.image.decode import MARGIN, decode_image
from diffusion_train.data.image.read_header import image_header
from diffusion_train.data.image.resize import to_bytes
from diffusion_train.data.image.transform import ImageTransform

SIZE = 256
SOURCES = [(512, 512), (1024, 768), (1024, 1024), (2048, 1536)]


def main() -> None:
    torch.set_num_threads(1)
    with Image.open(f"{matplotlib.get_data_path()}/sample_data/grace_hopper.jpg") as image:
        photo = image.convert("RGB")
    files = {size: encode(photo.resize(size, Image.Resampling.LANCZOS), "jpeg", quality=90) for size in SOURCES}
    decoders(files)
    whole_way(files)
    headers(photo.resize((1024, 768)))


def decoders(files: dict[tuple[int, int], bytes]) -> None:
    print(f"{'decoding alone':24}{'simplejpeg':>12}{'Pillow draft':>14}{'Pillow':>9}{'simplejpeg : draft : whole':>30}")
    for (width, height), data in files.items():
        factor = max(n for n in (1, 2, 4, 8) if n == 1 or min(width, height) >= n * MARGIN * SIZE)
        fast = milliseconds(lambda: by_simplejpeg(data, width // factor, height // factor))  # noqa: B023
        draft = milliseconds(lambda: by_pillow(data, (width // factor, height // factor)))  # noqa: B023
        whole = milliseconds(lambda: by_pillow(data, None))  # noqa: B023
        ratios = f"1 : {draft / fast:.2f} : {whole / fast:.2f}"
        print(f"{f'{width} x {height}, 1/{factor}':24}{fast:12.2f}{draft:14.2f}{whole:9.2f}{ratios:>30}")


def whole_way(files: dict[tuple[int, int], bytes]) -> None:
    print(f"\n{'bytes to tensor':24}{'decode_image + ImageTransform':>32}{'Pillow, decoded whole':>24}{'ratio':>8}")
    transform = ImageTransform(SIZE)
    for (width, height), data in files.items():
        ours = milliseconds(lambda: transform(decode_image(data, at_least=(SIZE, SIZE)), 0, 0))  # noqa: B023
        plain = milliseconds(lambda: pillow_view(data))  # noqa: B023
        print(f"{f'{width} x {height}':24}{ours:32.2f}{plain:24.2f}{plain / ours:8.2f}")


def headers(photo: Image.Image) -> None:
    print(f"\n{'header alone':24}{'image_header, us':>18}{'Image.open, us':>16}")
    for kind in ("jpeg", "png", "webp", "gif"):
        data = encode(photo, kind)
        ours = milliseconds(lambda: image_header(data), 200) * 1000  # noqa: B023
        pillow = milliseconds(lambda: Image.open(io.BytesIO(data)), 200) * 1000  # noqa: B023
        print(f"{kind:24}{ours:18.1f}{pillow:16.1f}")


def by_simplejpeg(data: bytes, width: int, height: int) -> Image.Image:
    return Image.fromarray(simplejpeg.decode_jpeg(data, "RGB", min_height=height, min_width=width))


def by_pillow(data: bytes, size: tuple[int, int] | None) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    if size:
        image.draft(None, size)
    image.load()
    return image


def pillow_view(data: bytes) -> torch.Tensor:
    image = by_pillow(data, None)
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    return to_bytes(square.resize((SIZE, SIZE), Image.Resampling.BICUBIC))


def encode(image: Image.Image, kind: str, **options: int) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def milliseconds(work: Callable[[], object], number: int = 5) -> float:
    return min(timeit.repeat(work, timer=time.process_time, number=number, repeat=7)) / number * 1000


if __name__ == "__main__":
    main()
