from __future__ import annotations

import sys

import pytest

from diffusion_train.prepare.source.base import LeftOut
from diffusion_train.prepare.source.parquet import Parquet
from diffusion_train.prepare.source.table import Columns

pyarrow = pytest.importorskip("pyarrow", reason="the extra `parquet` is not installed")
parquet = pytest.importorskip("pyarrow.parquet")


def save(path, columns, rows_per_group=2):
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table(columns), path, row_group_size=rows_per_group)
    return path


def test_images_as_bytes_with_facts(tmp_path, read):
    columns = {"jpg": [b"1", None, b"3"], "text": ["one", "two", None], "license": ["cc0", None, None], "n": [1, 2, 3]}
    found = read(Parquet(str(save(tmp_path / "p.parquet", columns))))
    assert list(found) == ["p/00000000", "p/00000001", "p/00000002"]
    first, second, third = found.values()
    assert (first.image, first.caption) == (b"1", "one")
    assert first.facts == {"file": "p.parquet", "row": 0, "license": "cc0", "n": 1}
    assert isinstance(second, LeftOut)
    assert second.reason == "no-image"
    assert third.caption is None


def test_images_as_the_hub_keeps_them(tmp_path, read):
    images = [{"bytes": b"1", "path": "x/1.jpg"}, {"bytes": None, "path": "2.jpg"}]
    save(tmp_path / "data" / "train-0.parquet", {"image": images, "caption": ["a", "b"], "id": ["k", "l"]})
    found = read(Parquet(str(tmp_path), columns=Columns(key="id")))
    assert (found["k"].image, found["k"].facts["path"]) == (b"1", "x/1.jpg")
    assert found["l"].reason == "no-image"


def test_a_list_of_captions(tmp_path, read):
    for name, image in (("bytes", [b"1"]), ("paths", ["a.jpg"])):
        (tmp_path / "a.jpg").write_bytes(b"1")
        [record] = read(
            Parquet(str(save(tmp_path / f"{name}.parquet", {"image": image, "text": [["x", "y"]]})))
        ).values()
        assert (record.caption, record.facts["text"]) == ("x", ["x", "y"])


def test_values_of_other_types(tmp_path, read):
    for values, captions in (([1.0, float("nan"), 0.5], ["1", None, "bad-caption"]), ([7, None, 8], ["7", None, "8"])):
        file = save(tmp_path / "p.parquet", {"image": [b"1"] * 3, "text": values})
        found = read(Parquet(str(file))).values()
        assert [one.reason if isinstance(one, LeftOut) else one.caption for one in found] == captions
    file = save(tmp_path / "q.parquet", {"image": ["a.jpg"], "text": [True]})
    (tmp_path / "a.jpg").write_bytes(b"1")
    assert read(Parquet(str(file)))["a"].detail == "a caption must be text or a whole number, got true"


def test_what_img2dataset_could_not_download_is_no_fault(tmp_path, read):
    columns = {"jpg": [b"1", None, None], "caption": ["a", "b", "c"], "status": ["success", "failed_to_download", None]}
    file = save(tmp_path / "00000.parquet", {**columns, "error_message": [None, "HTTP Error 404", None]})
    first, second, third = read(Parquet(str(file))).values()
    assert first.image == b"1"
    assert (second.reason, second.detail, second.is_fault) == ("not-downloaded", "HTTP Error 404", False)
    assert third.reason == "no-image"


def test_images_as_paths(tmp_path, read):
    (tmp_path / "a.jpg").write_bytes(b"1")
    file = save(tmp_path / "p.parquet", {"image": ["a.jpg", "gone.jpg", "http://x/a.jpg"], "caption": ["a", "b", "c"]})
    found = read(Parquet(str(file)))
    assert found["a"].image == b"1"
    assert found["gone"].reason == "no-image"
    assert found["p.parquet row 2"].reason == "address"


@pytest.mark.parametrize(
    "image", [[b"%d" % n for n in range(7)], [f"{n}.jpg" for n in range(7)]], ids=["bytes", "paths"]
)
def test_what_is_skipped_has_the_same_names(tmp_path, image):
    save(tmp_path / "a.parquet", {"image": image, "caption": ["x"] * 7})
    save(tmp_path / "b.parquet", {"image": image, "caption": ["x"] * 7})
    source = Parquet(str(tmp_path))
    assert source.total() == 14
    for skip in (0, 1, 2, 6, 7, 9, 14):
        entries = list(source.entries(skip))
        assert [entry.name for entry in entries] == [entry.name for entry in source.entries()]
        if isinstance(image[0], bytes):
            assert [entry.read().image for entry in entries[skip:]] == [*image, *image][skip:]


def test_skipping_a_file_of_images_alone(tmp_path):
    source = Parquet(str(save(tmp_path / "a.parquet", {"image": [b"1", b"2", b"3"]})), columns=Columns(caption=""))
    assert [entry.name for entry in source.entries(2)] == [entry.name for entry in source.entries()]


def test_mistakes_are_told_before_anything_is_read(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"contains no \.parquet file"):
        Parquet(str(tmp_path))
    file = save(tmp_path / "p.parquet", {"a": [b""]})
    with pytest.raises(ValueError, match=r"no column for the image: .*\n.*\nthe columns of .*p.parquet: a"):
        Parquet(str(file))
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 or not")
    with pytest.raises(ValueError, match="is not a parquet file"):
        Parquet(str(tmp_path / "broken.parquet"))
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ValueError, match=r'pip install "diffusion_train\[parquet\]"'):
        Parquet(str(file))
