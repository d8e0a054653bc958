"""Authors are read where a licence asks for them, and only there."""

from __future__ import annotations

import json

import numpy as np
import pytest

from diffusion_train.data.dataset import ShardDataset
from diffusion_train.data.image.preprocess import Preprocess
from diffusion_train.data.image.transform import ImageTransform
from diffusion_train.data.shard import authors as module
from diffusion_train.data.shard.authors import asks_for_author, authors
from diffusion_train.data.shard.catalog_builder import open_shards
from diffusion_train.data.storage.by_scheme import StorageByScheme

FACTS = {
    "a": b'{"license": "CC BY 4.0", "author": "Ada  L."}',
    "b": b'{"license": "CC BY 4.0", "author": "Ada L."}',
    "c": b'{"license": "CC BY 4.0", "author": ["no", "text"]}',
    "d": b'{"license": "CC0-1.0", "author": "Bob"}',
    "e": b'{"author": "Cem"}',
    "f": b'{"license": "MIT", "author": "Dora"}',
}


def members(make_png):
    return [(f"{key}.{kind}", data) for key in FACTS for kind, data in (("png", make_png(0)), ("json", FACTS[key]))]


def test_the_record_of_a_run_names_them(make_tar, make_png):
    captions = [(f"{key}.txt", b"x") for key in FACTS]
    dataset = ShardDataset(make_tar(members(make_png) + captions), Preprocess(ImageTransform(8)))
    found = dataset.facts["authors"]
    assert found == {"CC BY 4.0": {"Ada L.": 2}, "MIT": {"Dora": 1}}


def test_they_are_counted_by_licence(make_tar, make_png, monkeypatch):
    catalog = open_shards(make_tar([*members(make_png), ("g.png", make_png(1))]))
    every = np.arange(len(catalog))
    found = authors(catalog, every, StorageByScheme())
    assert found == {"CC BY 4.0": {"Ada L.": 2}, "MIT": {"Dora": 1}}
    json.dumps(found)
    assert authors(catalog, every[:1], StorageByScheme()) == {"CC BY 4.0": {"Ada L.": 1}}
    monkeypatch.setattr(module, "MOST", 1)
    assert authors(catalog, every, StorageByScheme()) == {"CC BY 4.0": {"Ada L.": 1}}


@pytest.mark.parametrize("license", ["CC-BY-SA-4.0", "cc by", "MIT", "CC0-1.0 AND CC-BY-4.0"])
def test_licences_that_ask_for_a_name(license):
    assert asks_for_author(license)


@pytest.mark.parametrize("license", ["cc0", "public domain", "unknown", "LicenseRef-Own", "ask my lawyer"])
def test_licences_that_do_not(license):
    assert not asks_for_author(license)
