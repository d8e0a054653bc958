"""Latents made before: what is taken from them equals what is computed, and nothing stale is taken."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_pipelines
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.utils.data import default_collate
from tqdm import tqdm

from diffusion_train.autoencoder.kl import KL
from diffusion_train.data.datamodule import DataModule
from diffusion_train.data.dataset import ShardDataset
from diffusion_train.data.image.collate import collate
from diffusion_train.data.image.preprocess import Preprocess
from diffusion_train.data.image.transform import ImageTransform
from diffusion_train.data.order.order import Draw, Order
from diffusion_train.data.order.order_spec import OrderSpec
from diffusion_train.data.order.resolution import AspectRatios, Resolution
from diffusion_train.data.precomputed.entries import Entries, EntryWriter
from diffusion_train.data.precomputed.latents import NoLatents, PrecomputedLatents
from diffusion_train.data.shard.writer import write_shard
from diffusion_train.encode.image_latents import ImageEncoder, missing_views
from diffusion_train.encode.precomputed_data import check_complete, check_encodable
from diffusion_train.encode.rank import Rank
from diffusion_train.utils.rng import Rng

pytest.importorskip("diffusers")
SIZES = [(40, 40), (40, 60), (60, 40), (44, 44)]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def kl(pipeline: Path) -> KL:
    return KL(str(pipeline))


def png(number: int, **changes: Any) -> bytes:
    height, width = SIZES[number % len(SIZES)]
    pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
    if "pixel" in changes:
        pixels[20, 20] ^= 255
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "png")
    return out.getvalue()


def samples(num_samples: int = 8) -> list[dict[str, Any]]:
    return [
        {"__key__": f"k{number}", "png": png(number), "txt": ["cat", "a dog", "flag left"][number % 3], "json": {}}
        for number in range(num_samples)
    ]


def dataset(folder: Path, made: Sequence[dict[str, Any]] | None = None, **settings: Any) -> ShardDataset:
    shard = folder / "data" / "a.tar"
    if made is not None or not shard.exists():
        write_shard(samples() if made is None else made, shard)
    return ShardDataset(shard, Preprocess(ImageTransform(**{"image_size": 32, "flip": True, **settings})))


def module(data: ShardDataset, ratio: float = 1, resolution: Resolution | None = None) -> DataModule:
    def order(fingerprint: str, num_samples: int) -> Order:
        return Order(seed=0, fingerprint=fingerprint, num_samples=num_samples, block_size=4, window=4)

    ratios = AspectRatios(ratio, 8)
    return DataModule(data, OrderSpec(order, ratios=ratios, image_size=32), batch_size=4, resolution=resolution)


def shards(data: DataModule) -> ShardDataset:
    assert isinstance(data.dataset, ShardDataset)
    return data.dataset


def encode(folder: Path, data: DataModule | ShardDataset, kl: KL) -> int:
    """-> how many views were missing, all of which are there now."""
    data = data if isinstance(data, DataModule) else module(data)
    encoded = PrecomputedLatents(Entries(folder), kl.fingerprint)
    missing = list(missing_views(shards(data), encoded, data.shapes()))
    encoder = ImageEncoder(shards(data), encoded, kl, CPU, batch_size=3, num_workers=0)
    with EntryWriter(folder, "latents") as writer, tqdm(disable=True) as bar:
        for views in missing:
            encoder.encode(views, writer, bar)
    return sum(len(views.samples) for views in missing)


def with_latents(folder: Path, data: ShardDataset, kl: KL) -> ShardDataset:
    return data.with_latents(PrecomputedLatents(Entries(folder), kl.fingerprint))


def assert_close(ours: torch.Tensor, online: torch.Tensor, atol: float = 1e-5) -> None:
    """Latents are encoded in batches of three, and online in those of training:
    a CPU may take other kernels for them.
    """
    torch.testing.assert_close(ours, online, rtol=0, atol=atol)


def latents(kl: KL, batch: dict[str, Any], rng: Rng | None) -> torch.Tensor:
    if "moments" in batch:
        return kl.latents(batch["moments"].view(kl.dtype).float(), rng)
    return kl.encode(batch["x"], rng)


@pytest.mark.parametrize(
    ("dtype", "atol"),
    [
        pytest.param("float32", 1e-5, id="float32"),
        pytest.param("bfloat16", 2e-2, id="bfloat16", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("crop", ["center", "focal"])
def test_equal_whatever_is_drawn(tmp_path: Path, out: Path, pipeline: Path, crop: str, dtype: str, atol: float) -> None:
    kl = KL(str(pipeline), dtype)  # type: ignore[arg-type]
    made = samples()
    made[1]["json"] = {"focal": [0.1, 0.9]}
    data = dataset(tmp_path, made, crop=crop)
    assert encode(out, data, kl) == 16
    before = with_latents(out, data, kl)
    for epoch in range(4):
        draws = [Draw(epoch, index) for index in (*range(8), 3)]
        online, cached = collate(data.read(draws)), default_collate(before.read(draws))
        assert {"x"} == online.keys() - cached.keys()
        assert {"moments", "target_size"} == cached.keys() - online.keys()
        for name in ("crop", "original_size", "index"):
            assert torch.equal(online[name], cached[name])
        assert (online["caption"], online["key"]) == (cached["caption"], cached["key"])
        rng = Rng.at_step(0, epoch, range(9), 9)
        assert_close(latents(kl, cached, rng), latents(kl, online, rng), atol)
        assert (latents(kl, cached, rng) - latents(kl, cached, None)).abs().max() > 10 * atol


def test_no_image_is_read(tmp_path: Path, out: Path, kl: KL, monkeypatch: pytest.MonkeyPatch) -> None:
    data = dataset(tmp_path)
    encode(out, data, kl)
    before = with_latents(out, data, kl)
    monkeypatch.setattr(Preprocess, "__call__", None)
    asked: list[str] = []
    begin = before.storage.begin
    monkeypatch.setattr(before.storage, "begin", lambda ranges: (asked.extend(r.url for r in ranges), begin(ranges))[1])
    before.read([Draw(0, index) for index in range(8)])
    texts = sum(url.endswith("a.tar") for url in asked)
    assert texts == 8  # the captions alone
    assert 8 <= len(asked) - texts <= 16  # latents, of what is drawn to be mirrored both ways round


def test_buckets_and_resolutions(tmp_path: Path, out: Path, kl: KL) -> None:
    data = module(dataset(tmp_path), ratio=2, resolution=Resolution([(0, 32), (2, 48)], AspectRatios(2, 8)))
    shapes = {shape: len(members) for shape, members in data.shapes()}
    assert len(shapes) == 6
    assert sum(shapes.values()) == 16
    assert encode(out, data, kl) == 32
    assert encode(out, data, kl) == 0
    online = iter(data.train_dataloader())
    expected = [next(online) for _ in range(8)]
    cached = iter(data.reading_from(with_latents(out, shards(data), kl)).train_dataloader())
    seen = set()
    for one in expected:
        other = next(cached)
        assert one["key"] == other["key"]
        seen.add(tuple(one["x"].shape[2:]))
        assert [tuple(size) for size in other["target_size"].tolist()] == [tuple(one["x"].shape[2:])] * 4
        x = one["x"].float() / 127.5 - 1
        assert_close(latents(kl, other, None), latents(kl, {"x": x}, None))
    assert len(seen) > 2


def test_bad_samples_are_replaced_as_they_are_online(tmp_path: Path, out: Path, kl: KL) -> None:
    made = samples()
    made[2]["png"] = made[2]["png"][:-2000]
    data = dataset(tmp_path, made)
    encode(out, data, kl)
    count = len(list(out.glob("*.tar")))
    assert encode(out, data, kl) == 2  # tried again, in vain:
    assert len(list(out.glob("*.tar"))) == count
    check_complete(data, PrecomputedLatents(Entries(out), kl.fingerprint), module(data).shapes(), "encoded")
    draws = [Draw(0, index) for index in range(8)]
    online, cached = collate(data.read(draws)), default_collate(with_latents(out, data, kl).read(draws))
    assert online["bad"] == cached["bad"] != [""] * 8
    assert online["key"] == cached["key"]
    assert_close(latents(kl, cached, None), latents(kl, online, None))


def readable(data: ShardDataset, index: int, shape: tuple[int, int] | None = None) -> bool:
    try:
        return bool(data.read([Draw(0, index, shape)]))
    except NoLatents:
        return False


def test_substitutes_that_have_none_in_the_shape_are_told_at_the_start(tmp_path: Path, out: Path, kl: KL) -> None:
    """Another caption gives the data another fingerprint, and a bad sample another substitute."""
    made = samples()
    made[2]["png"] = made[2]["png"][:-2000]

    def data() -> DataModule:
        return module(dataset(tmp_path, made), ratio=2, resolution=Resolution(32, AspectRatios(2, 8)))

    encode(out, data(), kl)
    found = set()
    for number in range(12):
        made[0]["txt"] = f"caption {number}"
        one = data()
        [shape] = [shape for shape, members in one.shapes() if 2 in members]
        encoded = PrecomputedLatents(Entries(out), kl.fingerprint)
        cached = shards(one).with_latents(encoded)
        there = all(readable(cached.oriented(mirrored), 2, shape) for mirrored in (False, True))
        found.add(there)
        if there:
            check_complete(shards(one), encoded, one.shapes(), "encoded")
        else:
            with pytest.raises(ValueError, match="1 images have no latents for"):
                check_complete(shards(one), encoded, one.shapes(), "encoded")
    assert found == {False, True}
    encode(out, one, kl)
    check_complete(shards(one), PrecomputedLatents(Entries(out), kl.fingerprint), one.shapes(), "encoded")


def test_damage_is_noticed(tmp_path: Path, out: Path, kl: KL, damage: Callable[[Path], None]) -> None:
    data = dataset(tmp_path)
    encode(out, data, kl)
    before = with_latents(out, data, kl)
    [shard] = out.glob("*.tar")
    damage(shard)
    damaged = [index for index in range(8) if not readable(before, index)]
    assert len(damaged) == 1
    with pytest.raises(NoLatents, match=rf"{shard.name} is damaged: a checksum differs; delete it"):
        before.read([Draw(0, *damaged)])


def test_a_stale_entry_is_never_used(tmp_path: Path, out: Path, kl: KL) -> None:
    """Each change makes just those anew that it touches."""
    assert encode(out, dataset(tmp_path), kl) == 16
    assert encode(out, dataset(tmp_path), kl) == 0

    def one_pixel(made: list[dict[str, Any]]) -> None:
        made[3]["png"] = png(3, pixel=True)

    def one_caption(made: list[dict[str, Any]]) -> None:
        made[4]["txt"] = "another"

    def one_renamed(made: list[dict[str, Any]]) -> None:
        made[5]["__key__"] = "other"

    def one_copied(made: list[dict[str, Any]]) -> None:
        made.append({**made[0], "__key__": "copy"})

    def in_another_order(made: list[dict[str, Any]]) -> None:
        made.reverse()

    for change, expected in {one_pixel: 2, one_caption: 0, one_renamed: 0, one_copied: 0, in_another_order: 0}.items():
        made = samples()
        change(made)
        data = dataset(tmp_path, made)
        stale = PrecomputedLatents(Entries(out), kl.fingerprint)
        if expected:
            with pytest.raises(
                ValueError,
                match=rf"{expected // 2} images have no latents for their .*\({expected // 2} of them at 32 x 32",
            ):
                check_complete(data, stale, module(data).shapes(), "encoded")
            with pytest.raises(NoLatents, match="'k3' has no latents"):
                data.with_latents(stale).read([Draw(0, 3)])
        assert encode(out, data, kl) == expected, change.__name__
        check_complete(data, PrecomputedLatents(Entries(out), kl.fingerprint), module(data).shapes(), "encoded")


@pytest.mark.parametrize("setting", [{"image_size": 40}, {"crop": "focal"}, {"background": (0, 0, 0)}])
def test_other_settings_of_the_view_make_all_anew(tmp_path: Path, out: Path, kl: KL, setting: dict[str, Any]) -> None:
    encode(out, dataset(tmp_path), kl)
    data = dataset(tmp_path, **setting)
    assert encode(out, data, kl) == 16
    assert encode(out, data, kl) == 0
    assert encode(out, dataset(tmp_path), kl) == 0  # and leave what was there


def test_without_flips_half_of_them_do(tmp_path: Path, out: Path, kl: KL) -> None:
    assert encode(out, dataset(tmp_path, flip=False), kl) == 8
    assert encode(out, dataset(tmp_path), kl) == 8
    assert encode(out, dataset(tmp_path, flip=False), kl) == 0


@pytest.mark.slow
def test_another_autoencoder_or_precision_makes_all_anew(tmp_path: Path, out: Path, pipeline: Path, kl: KL) -> None:
    encode(out, dataset(tmp_path), kl)
    assert encode(out, dataset(tmp_path), KL(str(pipeline), "bfloat16")) == 16
    other = tiny_pipelines.sd15(tmp_path / "other")
    assert encode(out, dataset(tmp_path), KL(str(other))) == 0  # the same weights, elsewhere
    file = other / "vae" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    next(iter(weights.values())).view(-1)[0] += 1e-3
    save_file(weights, file, {"format": "pt"})
    assert encode(out, dataset(tmp_path), KL(str(other))) == 16
    settings = other / "vae" / "config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"norm_num_groups": 4}))
    assert encode(out, dataset(tmp_path), KL(str(other))) == 16


def test_what_needs_pixels_is_refused(tmp_path: Path) -> None:
    data = dataset(tmp_path, crop="random", aligned={"small": lambda image: torch.zeros(1)})
    with pytest.raises(ValueError, match=r"data\.crop=random(.|\n)*data\.aligned: small"):
        check_encodable(data)


def test_an_autoencoder_that_answers_no_numbers_is_told(
    tmp_path: Path, out: Path, kl: KL, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = KL.moments

    def broken(self: KL, x: torch.Tensor) -> torch.Tensor:
        answer = moments(self, x)
        answer[1] = torch.nan
        return answer

    monkeypatch.setattr(KL, "moments", broken)
    with pytest.raises(ValueError, match=r"NaN or infinite latents for samples k1$"):
        encode(out, dataset(tmp_path), kl)
    assert not list(out.glob("*.tar"))


def test_shares_are_disjoint_and_all_there_is() -> None:
    whole = np.arange(5, 1000)
    parts = [Rank(rank, 3).slice_of(whole) for rank in range(3)]
    assert sorted(np.concatenate(parts)) == whole.tolist()
    assert [len(Rank(rank, 3).slice_of(whole[-300:])) for rank in range(3)] == pytest.approx([100] * 3, abs=64)
