"""Small pieces of HTML. Whatever comes from data, names or files passes `text` on its way into a page."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

from diffusion_train.utils.text import shown

_LARGE = 256  # pixels a side, from which on a page carries JPEG


def text(value: object, length: int = 300) -> str:
    """Escaped for elements and for quoted attributes; what does not print is made visible."""
    return html.escape(shown(str(value), length), quote=True)


def number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:,.{digits}f}".replace("-", "−")


def percent(share: float | None) -> str:
    return "–" if share is None else f"{round(100 * share)} %".replace("-", "−")


def count(amount: int, thing: str) -> str:
    return f"{amount:,} {thing}{'' if amount == 1 else 's'}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> str:
    """Cells are HTML already."""
    head = "".join(f'<th scope="col">{cell}</th>' for cell in header)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    title = f"<caption>{caption}</caption>" if caption else ""
    return f'<div class="scroll"><table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def picture(file: Path, alt: str) -> str:
    """An image element that holds the file's pixels; small ones are shown pixel by pixel."""
    if not file.is_file():
        return f'<span class="missing">{text(file.name)} is not there</span>'
    image = Image.open(file, formats=["PNG"])
    out, kind = io.BytesIO(), "png"
    if max(image.size) > _LARGE:
        kind = "jpeg"
        image.convert("RGB").save(out, "JPEG", quality=90)
    else:
        image.save(out, "PNG")
    data = base64.b64encode(out.getvalue()).decode()
    small = ' class="small"' if max(image.size) <= 128 else ""
    return f'<img{small} alt="{text(alt)}" src="data:image/{kind};base64,{data}">'
