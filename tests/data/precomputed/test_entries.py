"""Shards whose samples are found by a hash of what decides them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from diffusion_train.data.precomputed import entries
from diffusion_train.data.precomputed.entries import Entries, EntryWriter, address
from diffusion_train.data.shard.catalog import Catalog


def write(folder: Path, numbers: range, name: str = "some") -> None:
    with EntryWriter(folder, name) as writer:
        for number in numbers:
            writer.add(address("entry", number), {"value": torch.tensor([number, 7])})


def values(found: Entries, numbers: range) -> list[int | None]:
    places = found.find([address("entry", number) for number in numbers])
    contents = iter(found.storage.read([place for place, _ in found.ranges([place for place in places if place >= 0])]))
    return [int(load(next(contents))["value"][0]) if place >= 0 else None for place in places]


def test_what_was_written_is_found_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path, range(40))
    write(tmp_path, range(60, 70), name="other")
    found = Entries(tmp_path)
    assert len(found) == 50
    assert values(found, range(80)) == [*range(40), *[None] * 20, *range(60, 70), *[None] * 10]
    assert found.find([]) == []


def test_an_empty_folder_has_none_and_no_folder_is_an_error(tmp_path: Path) -> None:
    assert Entries(tmp_path).find([address(1), address(2)]) == [-1, -1]
    assert Entries(tmp_path).ranges([]) == []
    with pytest.raises(ValueError, match="no such file"):
        Entries(tmp_path / "absent")


def test_shards_are_given_as_data_shards_are(tmp_path: Path) -> None:
    write(tmp_path, range(3))
    write(tmp_path, range(3, 6))
    assert values(Entries(str(tmp_path / "*.tar")), range(6)) == [*range(6)]
    assert values(Entries([str(shard) for shard in tmp_path.glob("*.tar")]), range(6)) == [*range(6)]


def test_two_addresses_of_one_short_hash_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, range(1))
    short = Catalog.hash(address("entry", 0))
    found = Entries(tmp_path)
    monkeypatch.setattr(Catalog, "hash", staticmethod(lambda key: short))
    assert found.find([address("entry", 0), address("entry", 1)]) == [0, -1]


def test_addresses_depend_on_every_part_and_its_place() -> None:
    parts = [("a", "b"), ("b", "a"), ("ab",), ("a", "b", ""), ("a", 1), ("a", "1"), ("a", (1, 2)), ("a", (12,))]
    assert len({address(*one) for one in parts}) == len(parts)


def test_what_was_added_is_kept_when_work_is_cut_short(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), EntryWriter(tmp_path, "some") as writer:  # noqa: PT012
        for number in range(3):
            writer.add(address("entry", number), {"value": torch.tensor([number, 7])})
        raise KeyboardInterrupt
    assert values(Entries(tmp_path), range(4)) == [0, 1, 2, None]


@pytest.mark.parametrize("limit", ["_SHARD_BYTES", "_SHARD_SECONDS"])
def test_shards_end_by_size_and_by_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setattr(entries, limit, 0)
    write(tmp_path, range(4))
    assert len(list(tmp_path.glob("some-*.tar"))) == 4
    assert len(list(tmp_path.glob("some-*.tar.index.npz"))) == 4
    assert values(Entries(tmp_path), range(4)) == [0, 1, 2, 3]


def test_nothing_to_write_makes_no_shard(tmp_path: Path) -> None:
    write(tmp_path, range(0))
    assert not list(tmp_path.iterdir())
