"""The folder that an engineer gets from a brand: 30 images in eight formats, and a table of captions and rights."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pillow_heif
from PIL import Image

COLUMNS = ("file_name", "text", "license", "author", "owner", "license_expires", "people", "model_release")
OWN = ("own work", "", "ACME", "", "", "")
CC_BY = ("CC-BY-4.0", "{author}", "", "", "", "")
STOCK = ("Adobe Stock extended", "", "Adobe", "2999-06-30", "yes", "MR-17")
PROPRIETARY = ("proprietary", "", "ACME Photo Ltd", "2999-12-31", "no", "")
UNKNOWN = ("", "", "", "", "", "")
EXPIRED = ("Getty Images", "", "Getty", "2001-01-01", "no", "")
UNRELEASED = ("proprietary", "", "ACME Photo Ltd", "", "yes", "")
RIGHTS = {  # of each image, by the name of its file
    **{f"shoe_{number}.jpg": OWN for number in range(7)},
    **{f"street_{number}.png": CC_BY for number in range(6)},
    **{f"runner_{number}.webp": STOCK for number in range(3)},
    "campaign.heic": PROPRIETARY,
    "box.avif": PROPRIETARY,
    "sole.tiff": PROPRIETARY,
    "lace.bmp": UNKNOWN,
    "old_scan.jpg": UNKNOWN,
    "emblem.svg": OWN,
    "stripes.svg": ("LicenseRef-ACME-Contract-17", "", "ACME", "", "", ""),
    "logo_white.png": OWN,
    "print_cmyk.jpg": OWN,
    "billboard.jpg": OWN,
    "label.png": ("CC0-1.0", "", "", "", "", ""),
    "hand.jpg": ("(c) 2024 ACME", "", "", "", "no", ""),
    "expired.jpg": EXPIRED,
    "unreleased.jpg": UNRELEASED,
}
LEFT_OUT = {"expired.jpg": "expired-license", "unreleased.jpg": "missing-release"}
AUTHORS = ("Ada Lovelace", "Bo Diddley")


def make(folder: Path) -> Path:
    """Write the images and captions.csv into a new folder; return the table."""
    folder.mkdir(parents=True)
    for number, name in enumerate(RIGHTS):
        _write(folder / name, number)
    with (folder / "captions.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([COLUMNS, *map(_row, range(len(RIGHTS)), RIGHTS)])
    return folder / "captions.csv"


def picture(number: int, side: int = 288) -> Image.Image:
    """A soft picture that no other number gives, larger than wide."""
    noise = np.random.default_rng(number).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((side, side + 24), Image.Resampling.BICUBIC)


def _row(number: int, name: str) -> tuple[str, ...]:
    words = name.partition(".")[0].replace("_", " ")
    return (name, f"a photo of a {words}", *(cell.format(author=AUTHORS[number % 2]) for cell in RIGHTS[name]))


def _write(file: Path, number: int) -> None:
    if file.suffix == ".svg":
        drawing = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><circle cx="4" cy="4" r="{}"/></svg>'
        file.write_text(drawing.format(1 + number % 3))
    elif file.name == "logo_white.png":
        logo = Image.new("RGBA", (288, 288))
        logo.paste((255, 255, 255, 255), (40, 90, 250, 200))
        logo.save(file)
    elif file.name == "billboard.jpg":
        picture(number).resize((9000, 9000), Image.Resampling.NEAREST).save(file, quality=50)
    elif file.name == "print_cmyk.jpg":
        picture(number).convert("CMYK").save(file)
    elif file.suffix == ".heic":
        pillow_heif.from_pillow(picture(number)).save(file)
    else:
        picture(number).save(file)
