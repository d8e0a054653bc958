from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from diffusion_train.prepare.packages import cached_shards, draw_svg, require
from diffusion_train.prepare.source.base import Entry, Record

HALF_RED = '<svg viewBox="0 0 2 2" xmlns="http://www.w3.org/2000/svg"><rect width="1" height="2" fill="#f00"/></svg>'


def entry():
    return Entry("a", lambda: Record(draw_svg(HALF_RED, 4), "red", {}))


def test_drawing_stands_on_white_and_blends_edges():
    image = np.array(Image.open(io.BytesIO(draw_svg(HALF_RED, 3))))
    assert image.shape == (3, 3, 3)
    assert image[1, 0].tolist() == [255, 0, 0]
    assert image[1, 2].tolist() == [255, 255, 255]
    assert image[1, 1, 1] == pytest.approx(127.5, abs=2)


def test_shards_are_made_once_for_the_same_versions_and_settings():
    calls = []

    def make():
        calls.append(1)
        return [entry()]

    paths = [cached_shards("x", ["pillow"], {"size": size}, make) for size in (4, 4, 5)]
    assert len(calls) == 2
    assert paths[0] == paths[1] != paths[2]
    assert all(path.is_file() for group in paths for path in group)


def test_an_interrupted_preparation_leaves_nothing_that_counts_as_made():
    def interrupted():
        def fail():
            raise KeyboardInterrupt

        return [entry(), Entry("b", fail)]

    with pytest.raises(KeyboardInterrupt):
        cached_shards("x", ["pillow"], {}, interrupted)
    assert len(cached_shards("x", ["pillow"], {}, lambda: [entry()])) == 1


def test_a_missing_package_is_refused_with_its_remedy():
    with pytest.raises(ValueError, match=r'pip install "diffusion_train\[demo\]"'):
        require("no_such_package_of_emoji")
