"""Every key of a foreign config is used, harmless or refused; those of the installed libraries are enumerated."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
from pathlib import Path

import pytest
import tiny_pipelines
import torch
from safetensors.torch import load_file, save_file

from diffusion_train.autoencoder.kl import KL
from diffusion_train.conditioner.clip_text import CLIPText
from diffusion_train.network.diffusers_unet import DiffusersUNet
from diffusion_train.pretrained import foreign_keys, parts
from diffusion_train.pretrained.config_keys import pipeline_keys, scheduler_keys, text_keys
from diffusion_train.pretrained.single_file import Model, write_layout

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

PIPELINES = {
    "StableDiffusionPipeline": pipeline_keys.STABLE_DIFFUSION,
    "StableDiffusionXLPipeline": pipeline_keys.STABLE_DIFFUSION_XL,
}
CONFIGS = {
    "CLIPTextModel": "CLIPTextConfig",
    "CLIPTextModelWithProjection": "CLIPTextConfig",
    "T5EncoderModel": "T5Config",
}
ALL = {
    **PIPELINES,
    **foreign_keys.KEYS,
    **dict.fromkeys(scheduler_keys.CLASSES, scheduler_keys.KEYS),
    "CLIPTokenizer": text_keys.TOKENIZER,
    "T5Tokenizer": text_keys.TOKENIZER,
}


def signature(name: str) -> set[str]:
    """The keys that a class of the installed libraries reads from its config."""
    if name == "DPMSolverSDEScheduler":  # it cannot be imported without torchsde, so its file is read
        file = importlib.util.find_spec("diffusers.schedulers.scheduling_dpmsolver_sde").origin
        classes = [node for node in ast.walk(ast.parse(Path(file).read_text())) if isinstance(node, ast.ClassDef)]
        (made,) = (node for node in classes if node.name == name)
        (init,) = (node for node in made.body if isinstance(node, ast.FunctionDef) and node.name == "__init__")
        return {argument.arg for argument in init.args.args} - {"self"}
    made = getattr(diffusers if hasattr(diffusers, name) else transformers, CONFIGS.get(name, name))
    found = inspect.signature(made.__init__).parameters
    plain = {key for key, value in found.items() if value.kind not in (value.VAR_KEYWORD, value.VAR_POSITIONAL)}
    assert plain - {"self"}
    return plain - {"self"}


@pytest.mark.parametrize("name", ALL)
def test_no_key_of_the_installed_libraries_is_unknown(name: str) -> None:
    """A new release with a new key fails here: say whether it is used, harmless or refused."""
    assert signature(name) - ALL[name].names == set()


@pytest.mark.parametrize("name", ["CLIPTextConfig", "T5Config"])
def test_no_key_that_transformers_saves_is_unknown(name: str) -> None:
    saved = getattr(transformers, name)().to_dict()
    keys = {"CLIPTextConfig": text_keys.CLIP_TEXT, "T5Config": text_keys.T5_ENCODER}[name]
    assert saved.keys() - keys.names == set()


@pytest.mark.parametrize("name", ALL)
def test_a_key_is_in_one_list_and_harmless_ones_have_a_reason(name: str) -> None:
    keys = ALL[name]
    assert not keys.used & keys.harmless.keys()
    assert not keys.used & keys.refused.keys()
    assert not keys.harmless.keys() & keys.refused.keys()
    assert all(keys.harmless.values())


@pytest.mark.parametrize("name", scheduler_keys.CLASSES)
def test_defaults_of_schedulers_are_those_of_diffusers(name: str) -> None:
    if name == "DPMSolverSDEScheduler":
        pytest.skip("needs torchsde")
    defaults = {key: value.default for key, value in inspect.signature(getattr(diffusers, name)).parameters.items()}
    ours = scheduler_keys.CLASSES[name]
    assert (ours.beta_start, ours.beta_end) == (defaults["beta_start"], defaults["beta_end"])
    assert ours.clip_sample == defaults.get("clip_sample", False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The configs of Stable Diffusion 1, without weights."""
    write_layout(Model("sd1", "epsilon", False), tmp_path / "sd")
    return tmp_path / "sd"


@pytest.fixture
def xl(tmp_path: Path) -> Path:
    write_layout(Model("sdxl", "epsilon", False), tmp_path / "sdxl")
    return tmp_path / "sdxl"


def change(file: Path, **settings: object) -> None:
    file.parent.mkdir(exist_ok=True)
    found = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps(found | settings))


def described(folder: Path) -> dict:
    return parts.of_pipeline(folder, "it", "it")


REFUSED = [
    ("vae/config.json", {"latents_mean": [0.1] * 4, "latents_std": [2.0] * 4}, "latents_mean=.* set it to null"),
    ("vae/config.json", {"shift_factor": 0.1}, "vae/config.json: shift_factor=0.1: .* do not apply it"),
    ("vae/config.json", {"new_key": False}, "vae/config.json: new_key=False: unknown key.* remove the key"),
    ("unet/config.json", {"time_cond_proj_dim": 256}, "unet/config.json: time_cond_proj_dim=256: .* distilled"),
    ("unet/config.json", {"encoder_hid_dim_type": "text_proj"}, "encoder_hid_dim_type=text_proj"),
    ("unet/config.json", {"attention_type": "gated"}, "attention_type=gated: boxes"),
    ("unet/config.json", {"out_channels": 8}, "returns 8 channels.* predict a variance"),
    ("unet/config.json", {"quantization_config": {"bits": 4}}, "weights are quantized"),
    ("text_encoder/config.json", {"auto_map": {"AutoModel": "x.Y"}}, "text_encoder/config.json: auto_map=.* never run"),
    ("tokenizer/tokenizer_config.json", {"auto_map": {}}, "tokenizer/tokenizer_config.json: auto_map="),
    ("model_index.json", {"prior": ["diffusers", "X"]}, r"model_index\.json: prior=\['diffusers', 'X'\]: unknown key"),
    ("model_index.json", {"vae": ["diffusers", "AutoencoderTiny"]}, "vae=.*AutoencoderTiny.*must be a AutoencoderKL"),
    ("model_index.json", {"scheduler": ["diffusers", "LCMScheduler"]}, "LCMScheduler: the model is distilled"),
    ("model_index.json", {"_class_name": "LatentConsistencyModelPipeline"}, "distilled for few steps; it cannot be"),
]


@pytest.mark.parametrize(("file", "settings", "message"), REFUSED, ids=lambda value: str(value)[:40])
def test_keys_that_change_a_model_are_refused_by_name(folder: Path, file: str, settings: dict, message: str) -> None:
    described(folder)
    change(folder / file, **settings)
    with pytest.raises(ValueError, match=f"pretrained=it: (?s:.*){message}"):
        described(folder)


def test_all_keys_are_listed_at_once(folder: Path) -> None:
    change(folder / "unet/config.json", time_cond_proj_dim=256, new_key=1)
    change(folder / "vae/config.json", shift_factor=0.1)
    change(folder / "scheduler/scheduler_config.json", use_beta_sigmas=True)
    with pytest.raises(ValueError, match=r"(?s)time_cond_proj_dim=256.*new_key=1.*shift_factor=0\.1.*use_beta_sigmas"):
        described(folder)


def test_keys_that_libraries_and_trainers_leave_are_accepted(folder: Path, xl: Path) -> None:
    before = described(folder)
    change(folder / "unet/config.json", decay=0.9999, update_after_step=0, _name_or_path="x", time_cond_proj_dim=None)
    change(folder / "vae/config.json", latents_mean=None, latents_std=None, shift_factor=None, new_key=None)
    change(folder / "text_encoder/config.json", torch_dtype="float16", transformers_version="4.21.0", top_k=50)
    change(folder / "model_index.json", _diffusers_version="0.6.0", image_encoder=[None, None])
    assert described(folder) == before
    change(xl / "vae/config.json", latents_mean=[0.1] * 4, latents_std=[2.0] * 4)
    described(xl)


def test_the_number_of_tokens_is_that_of_the_tokenizer_and_the_encoder(folder: Path, xl: Path) -> None:
    def max_length() -> int:
        return described(folder)["conditioner"]["encoder"]["max_length"]

    assert max_length() == 77
    change(folder / "tokenizer/tokenizer_config.json", model_max_length=int(1e30))
    assert max_length() == 77
    change(folder / "tokenizer/tokenizer_config.json", model_max_length=64)
    assert max_length() == 64
    change(folder / "tokenizer/tokenizer_config.json", model_max_length=248)
    change(folder / "text_encoder/config.json", max_position_embeddings=248)
    assert max_length() == 248
    change(xl / "tokenizer_2/tokenizer_config.json", model_max_length=64)
    with pytest.raises(ValueError, match=r"same model_max_length .* got tokenizer 77, tokenizer_2 64"):
        described(xl)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipelines.sd15(tmp_path_factory.mktemp("tiny"))


def test_a_single_part_is_checked_too(tiny: Path, tmp_path: Path) -> None:
    unet = json.loads((tiny / "unet/config.json").read_text())
    with pytest.raises(ValueError, match=r"network\.model: layers_per_blok=2: unknown key"):
        DiffusersUNet(unet | {"layers_per_blok": 2})
    for name, load in {"vae": KL, "text_encoder": lambda source: CLIPText(source, 77, "", "../tokenizer")}.items():
        (tmp_path / name).mkdir()
        for file in (tiny / name).iterdir():
            (tmp_path / name / file.name).symlink_to(file)
        config = json.loads((tiny / name / "config.json").read_text())
        (tmp_path / name / "config.json").unlink()
        (tmp_path / name / "config.json").write_text(json.dumps(config | {"new_key": 1}))
        with pytest.raises(ValueError, match=r"config\.json: new_key=1: unknown key"):
            load(str(tmp_path / name))


def test_weights_that_are_missing_are_not_filled_with_random_numbers(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((tiny / "vae/config.json").read_text())
    weights = load_file(tiny / "vae/diffusion_pytorch_model.safetensors")
    del weights["decoder.conv_out.bias"]
    save_file(weights, tmp_path / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"1 weights are missing \(first: decoder\.conv_out\.bias\); download"):
        KL(str(tmp_path))
    (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"diffusion_pytorch_model\.safetensors is not a whole safetensors file"):
        KL(str(tmp_path))


def test_building_without_weights_stays_possible(tiny: Path) -> None:
    with torch.device("meta"):
        assert KL(str(tiny)).latent_shape((3, 64, 64)) == (4, 8, 8)
