"""An image may have as many bytes from an archive or a table as from a folder."""

from __future__ import annotations

import io
import tarfile

import pytest

from diffusion_train.prepare.image import formats
from diffusion_train.prepare.source.base import LeftOut
from diffusion_train.prepare.source.folder import Folder
from diffusion_train.prepare.source.img2dataset import Img2dataset
from diffusion_train.prepare.source.parquet import Parquet
from diffusion_train.prepare.source.table import Csv

IMAGES = {
    "a.jpg": b"\xff\xd8\xff" + bytes(50),
    "b.tiff": b"II*\0" + bytes(50),
    "c.svg": b"<svg/>" + bytes(50),
    "d.tif": b"II*\0" + bytes(200),
}


def source(kind, folder):
    for name, image in IMAGES.items():
        (folder / name).write_bytes(image)
    if kind == "folder":
        return Folder(str(folder))
    if kind == "csv":
        (folder / "t.csv").write_text("image,text\n" + "".join(f"{name},x\n" for name in IMAGES))
        return Csv(str(folder / "t.csv"))
    if kind == "tar":
        with tarfile.open(folder / "0.tar", "w") as file:
            for name, image in IMAGES.items():
                info = tarfile.TarInfo(name)
                info.size = len(image)
                file.addfile(info, io.BytesIO(image))
        return Img2dataset(str(folder))
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"image": list(IMAGES.values()), "text": ["x"] * 4, "key": list("abcd")})
    parquet.write_table(table, folder / "t.parquet")
    return Parquet(str(folder / "t.parquet"))


@pytest.mark.parametrize("kind", ["folder", "csv", "tar", "parquet"])
def test_the_cap_depends_on_the_format_alone(tmp_path, read, monkeypatch, kind):
    monkeypatch.setattr(formats, "MAX_BYTES", 20)
    monkeypatch.setattr(formats, "_MOST_BYTES", {"tiff": 100, "tif": 100, "svg": 200})
    found = read(source(kind, tmp_path)).values()
    reasons = [one.reason if isinstance(one, LeftOut) else "read" for one in found]
    assert reasons == ["too-many-bytes", "read", "read", "too-many-bytes"]
