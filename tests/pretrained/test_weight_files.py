"""Weights in shards and as variants are found, and a missing one is named."""

from __future__ import annotations

import json
import shutil
from fnmatch import fnmatch
from pathlib import Path

import pytest
import tiny_pipelines
import torch

from diffusion_train.autoencoder.kl import KL
from diffusion_train.conditioner.clip_text import CLIPText
from diffusion_train.network.diffusers_unet import DiffusersUNet
from diffusion_train.pretrained import diffusers_folder, hub, origin
from diffusion_train.pretrained.weight_files import find

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipelines.sd15(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def halved(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model with weights in float16 alone, under the names of that variant, the U-Net in shards."""
    folder = tmp_path_factory.mktemp("halved")
    shutil.copytree(whole, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors"))
    options = {"variant": "fp16", "safe_serialization": True}
    load(whole, "unet").half().save_pretrained(folder / "unet", max_shard_size="1MB", **options)
    load(whole, "vae").half().save_pretrained(folder / "vae", **options)
    load(whole, "text_encoder").half().save_pretrained(folder / "text_encoder", **options)
    return folder


def load(folder: Path, name: str):
    classes = {"unet": diffusers.UNet2DConditionModel, "vae": diffusers.AutoencoderKL}
    return classes.get(name, transformers.CLIPTextModel).from_pretrained(folder / name)


def test_only_variants_are_read(whole: Path, halved: Path) -> None:
    assert {name: find(halved / name).variant for name in diffusers_folder.WEIGHTS["sd"]} == dict.fromkeys(
        diffusers_folder.WEIGHTS["sd"], "fp16"
    )
    assert len(find(halved / "unet").files) > 1
    assert origin.folder(str(halved)) == halved
    for ours, name in ((DiffusersUNet(halved).unet, "unet"), (KL(str(halved))._held[0], "vae")):
        expected = load(whole, name).half().float().state_dict()
        assert all(torch.equal(value, expected[key]) for key, value in ours.state_dict().items())
    texts = [
        dict(CLIPText(str(folder), 77, "text_encoder", "tokenizer").embed(["a cat"], torch.device("cpu")))["a cat"].text
        for folder in (whole, halved)
    ]
    assert 0 < (texts[0] - texts[1]).abs().max() < 0.1


def test_full_precision_is_preferred(whole: Path, halved: Path, tmp_path: Path) -> None:
    both = shutil.copytree(halved, tmp_path / "both")
    shutil.copyfile(whole / "vae/diffusion_pytorch_model.safetensors", both / "vae/diffusion_pytorch_model.safetensors")
    assert (find(both / "vae").variant, find(both / "unet").variant) == ("", "fp16")
    expected = load(whole, "vae").state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in KL(str(both))._held[0].state_dict().items())
    names = set(diffusers_folder.weight_files(both, "it"))
    assert {name for name in names if name.startswith("vae/")} == {"vae/diffusion_pytorch_model.safetensors"}


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """A part in three shards with one tensor each."""
    folder = tmp_path / "unet"
    folder.mkdir()
    names = {f"w{i}": f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)}
    for name in names.values():
        (folder / name).touch()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    return folder


def test_a_missing_shard_is_named(shards: Path) -> None:
    assert [file.name[:11] for file in find(shards).files] == ["model-00001", "model-00002", "model-00003"]
    (shards / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ValueError, match=r"^unet/model-00002-of-00003\.safetensors is missing, which model\.safe"):
        find(shards)
    with pytest.raises(ValueError, match=r"^network\.model=x: unet/model-00002"):
        find_whole(shards)


def find_whole(folder: Path):
    from diffusion_train.pretrained import weight_files

    return weight_files.find_whole(folder, "network.model=x")


def test_a_missing_or_wrong_index_is_named(shards: Path) -> None:
    index = shards / "model.safetensors.index.json"
    for text, said in (
        ("{", "is not an index of shards; download it again"),
        ('{"weight_map": {}}', "must name files in unet/"),
        ('{"weight_map": {"w": "../../secret.safetensors"}}', "must name files in unet/"),
        ('{"weight_map": {"w": "/etc/passwd"}}', "must name files in unet/"),
        ('{"weight_map": {"w": 3}}', "is not an index of shards"),
    ):
        index.write_text(text)
        with pytest.raises(ValueError, match=said):
            find(shards)
    index.unlink()
    with pytest.raises(ValueError, match=r"unet/model\.safetensors\.index\.json is missing, which lists the shards"):
        find(shards)


def test_a_model_with_a_missing_shard_is_refused_when_it_is_described(halved: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(halved, tmp_path / "torn")
    shard = find(folder / "unet").files[0]
    shard.unlink()
    with pytest.raises(ValueError, match=rf"pretrained={folder}: unet/{shard.name} is missing"):
        origin.folder(str(folder))


def test_the_hub_gives_variants_of_parts_without_other_weights(halved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(hub, "snapshot", lambda *given: asked.append(given))
    hub.add_variants("owner/name@main", "pretrained", halved, ["unet", "vae", "text_encoder_2"])
    assert not asked
    for file in find(halved / "vae").files:
        monkeypatch.setattr(Path, "glob", lambda folder, _, file=file: [] if folder == file.parent else [folder])
    hub.add_variants("owner/name@main", "pretrained", halved, ["unet", "vae", "text_encoder_2"])
    assert asked == [("owner/name@halved0", "pretrained", ["vae/*.fp16*", "vae/*.bf16*"], ["*.bin"])]


def test_the_hub_gives_a_pipeline_without_the_same_model_in_one_file() -> None:
    names = [
        "unet/a-00001-of-00002.safetensors",
        "vae/b.safetensors",
        "v1-5-pruned.safetensors",
        "tokenizer/vocab.json",
    ]
    given = [name for name in names if any(fnmatch(name, pattern) for pattern in hub.PIPELINE)]
    assert given == [name for name in names if not name.startswith("v1")]
