"""Images of samples: single PNG files, grids with captions, and scatter plots."""

from __future__ import annotations

import io
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from diffusion_train.utils.text import printable


def to_image(x: Tensor) -> Image.Image:
    """Convert x (C, H, W) in [-1, 1], C = 1 or 3, to an image."""
    bytes_ = ((x.detach().float().cpu() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    pixels = np.ascontiguousarray(bytes_.permute(1, 2, 0).numpy())
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def save_png(image: Image.Image, path: Path, texts: dict[str, str] | None = None) -> None:
    """Write a PNG with `texts` as international text chunks; it holds no time and no path."""
    info = PngInfo()
    for name, text in (texts or {}).items():
        info.add_itxt(name, text)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, format="PNG", pnginfo=info)


def grid(images: Tensor, captions: Sequence[str], num_columns: int, min_side: int = 96) -> Image.Image:
    """Draw images (N, C, H, W) in [-1, 1] row by row, each above its caption; small ones are enlarged to `min_side`."""
    scale = max(1, -(-min_side // images.shape[-1]))
    width, height = images.shape[-1] * scale, images.shape[-2] * scale
    font, gap, line = _font(10), 6, 13
    cell_w, cell_h = width + gap, height + 2 * line + gap
    num_rows = -(-len(images) // num_columns)
    canvas = Image.new("RGB", (num_columns * cell_w + gap, num_rows * cell_h + gap), "white")
    draw = ImageDraw.Draw(canvas)
    for number, (x, caption) in enumerate(zip(images, captions, strict=True)):
        left = gap + (number % num_columns) * cell_w
        top = gap + (number // num_columns) * cell_h
        canvas.paste(to_image(x).resize((width, height), Image.Resampling.NEAREST), (left, top))
        for row, text in enumerate(_lines(printable(" ".join(caption.split()), 200), font, width)):
            draw.text((left, top + height + 1 + row * line), text, fill="black", font=font)
    return canvas


def _font(size: int) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans from matplotlib; Pillow's default font lacks the letters of most languages."""
    spec = find_spec("matplotlib")  # importing it takes longer than drawing
    assert spec is not None
    assert spec.origin is not None
    return ImageFont.truetype(Path(spec.origin).with_name("mpl-data") / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def _lines(caption: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Break a caption into at most two lines of at most `width` pixels."""
    lines = [""]
    for word in caption.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        elif len(lines) < 2:
            lines.append(word)
        else:
            lines[-1] += "…"
            break
    return lines


def scatter(points: Tensor, data: Tensor, title: str) -> Image.Image:
    """Draw samples (N, 2) over data (M, 2)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 5), dpi=120)
    axes = figure.add_subplot()
    axes.scatter(data[:, 0].tolist(), data[:, 1].tolist(), s=4, c="lightgray", label="data")
    axes.scatter(points[:, 0].tolist(), points[:, 1].tolist(), s=4, c="tab:blue", alpha=0.6, label="samples")
    axes.set(title=title, aspect="equal")
    axes.legend(loc="upper right")
    out = io.BytesIO()
    figure.savefig(out, metadata={"Software": None})
    return Image.open(out, formats=["PNG"])
