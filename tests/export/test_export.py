"""Runs on Stable Diffusion, exported by the command and loaded by diffusers in a process of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from diffusion_train.approval import Decision, record
from diffusion_train.assembly import load_pipeline
from diffusion_train.command.cli import launch
from diffusion_train.command.export import FORMATS
from diffusion_train.export import lora_kohya
from diffusion_train.export.exported_model import Model
from diffusion_train.export.proof import difference
from diffusion_train.pretrained.diffusers_folder import check_contents
from diffusion_train.run_folder import RunFolder
from diffusion_train.utils.files import file_sha256

LORA = ("adapter=lora", "adapter.rank=4", "adapter.alpha=6")
ALL = "adapter.targets='.*'"
CONVOLUTIONS = r"adapter.targets='.*\.(conv|conv1|conv2|conv_shortcut)'"  # those of each block, and between levels
TEXT = "adapter.text_encoder=true"
# A network of random weights lets rounding grow with each guided step: 1e-6 of its output becomes 2e-2 in ten.
CALM = ("proof.num_steps=4", "proof.guidance_scale=1.5")
Tiny = Callable[[str], Path]
MakeRun = Callable[..., Path]


@pytest.fixture(scope="module")
def runs(tiny: Tiny, make_run: MakeRun, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """(name of a base, overrides) -> a run on it, made once."""
    folder = tmp_path_factory.mktemp("runs")
    made: dict[tuple[str, ...], Path] = {}

    def run(base: str, *overrides: str) -> Path:
        key = (base, *overrides)
        if key not in made:
            given = ("experiment=sd15_full", "base.accepts=null", f"pretrained={tiny(base)}")
            made[key] = make_run(folder / f"run{len(made)}", *given, *overrides)
        return made[key]

    return run


def differences(output: str) -> list[float]:
    match = re.search(r"largest difference from diffusers: prediction (\S+), image (\S+)", output)
    assert match, output
    return [float(match[1]), float(match[2])]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("base", "form", "overrides"),
    [
        ("sd15", "diffusers", LORA),
        ("sd15", "diffusers", ()),
        ("sd15", "lora_peft", LORA),
        ("sd15", "lora_kohya", (*LORA, ALL)),
        ("sd15", "single_file", ()),
        ("sd2_v", "lora_kohya", (*LORA, ALL)),
        ("sd2_zero_snr", "single_file", LORA),
        ("sdxl", "lora_peft", (*LORA, ALL)),
        ("sdxl", "lora_kohya", (*LORA, ALL)),
        *((base, "lora_kohya", (*LORA, CONVOLUTIONS)) for base in ("sd15", "sdxl")),
        ("sdxl", "single_file", LORA),
        *((base, form, (*LORA, TEXT)) for base in ("sd15", "sdxl") for form in FORMATS),
        ("sd2_v", "lora_kohya", (*LORA, TEXT)),
        ("sd2_v", "single_file", (*LORA, TEXT)),
    ],
)
def test_diffusers_gives_our_prediction_and_image(
    runs: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    base: str,
    form: str,
    overrides: tuple[str, ...],
) -> None:
    scaled = ["adapter.scale=0.8"] if overrides else []
    where = [f"run={runs(base, *overrides)}", f"format={form}", f"out={tmp_path / 'out'}"]
    code = launch("export", [*where, *scaled, *CALM])
    assert code == 0
    printed = capsys.readouterr().out
    assert max(differences(printed)) < 1e-4
    unusual = {
        "sd15": "lora_unet_conv_in, lora_unet_conv_out",
        "sdxl": "lora_unet_input_blocks_0_0, lora_unet_label_emb",
    }
    assert (unusual.get(base, "lora_unet_conv_in") in printed) == (form == "lora_kohya" and ALL in overrides)
    assert "no approval: nobody has approved" in printed
    modes = {oct(file.stat().st_mode) for file in (tmp_path / "out").rglob("*") if file.is_file()}
    assert len(modes) == 1  # those of any new file, not those of safetensors
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert {"README.md", "sample.png"} < {path.name for path in (tmp_path / "out").iterdir()}


@pytest.mark.slow
def test_adapters_on_a_run_of_ours(
    runs: Callable[..., Path], make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The base of the adapter is then that run, not the pipeline that it began with."""
    run = make_run(tmp_path / "run", "experiment=sd15_full", f"pretrained={runs('sd15')}", *LORA)
    assert launch("export", [f"run={run}", "format=lora_kohya", f"out={tmp_path / 'out'}", *CALM]) == 0
    assert max(differences(capsys.readouterr().out)) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("form", ["diffusers", "single_file"])
def test_a_base_fetched_without_the_filter_of_images(
    tiny: Tiny, make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    """As the published Stable Diffusion 1.5 is: its index names parts that nothing here needs."""
    base = shutil.copytree(tiny("sd15"), tmp_path / "base")
    index = json.loads((base / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    del index["requires_safety_checker"]
    (base / "model_index.json").write_text(json.dumps(index))
    run = make_run(tmp_path / "run", "experiment=sd15_full", f"pretrained={base}", *LORA)
    assert launch("export", [f"run={run}", f"format={form}", f"out={tmp_path / 'out'}", *CALM]) == 0
    assert max(differences(capsys.readouterr().out)) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("form", ["diffusers", "single_file", "lora_kohya"])
def test_a_base_whose_text_encoder_speaks_of_half_precision(
    tiny: Tiny, make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    """As the published Stable Diffusion XL does, of weights in float32: tools take the word for it."""
    base = shutil.copytree(tiny("sd15"), tmp_path / "base")
    file = base / "text_encoder" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"dtype": "float16"}))
    run = make_run(tmp_path / "run", "experiment=sd15_full", f"pretrained={base}", *LORA, TEXT)
    assert launch("export", [f"run={run}", f"format={form}", f"out={tmp_path / 'out'}", *CALM]) == 0
    assert max(differences(capsys.readouterr().out)) < 1e-4


@pytest.mark.slow
def test_a_base_in_half_precision_whose_latents_have_a_mean(
    tiny: Tiny, make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights are only variants (.fp16.); the configs of autoencoder and scheduler are written as they were read."""
    base = shutil.copytree(tiny("sdxl"), tmp_path / "base")
    for file in base.glob("*/*.safetensors"):
        save_file(
            {name: value.half() if value.is_floating_point() else value for name, value in load_file(file).items()},
            file.with_name(f"{file.stem}.fp16.safetensors"),
            {"format": "pt"},
        )
        file.unlink()
    vae, scheduler = base / "vae" / "config.json", base / "scheduler" / "scheduler_config.json"
    latents = {"latents_mean": [0.3, -0.1, 0.2, 0.0], "latents_std": [0.5, 1.5, 2.0, 1.0]}
    for file, settings in {vae: latents, scheduler: {"use_karras_sigmas": True}}.items():
        file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    run = make_run(tmp_path / "run", "experiment=sd15_full", "base.accepts=null", f"pretrained={base}", *LORA)
    for form in ("diffusers", "lora_peft"):
        out = tmp_path / form
        assert launch("export", [f"run={run}", f"format={form}", f"out={out}", *CALM]) == 0
        assert max(differences(capsys.readouterr().out)) < 1e-4
    for file in (vae, scheduler):
        assert (tmp_path / "diffusers" / file.relative_to(base)).read_bytes() == file.read_bytes()
    assert not list((tmp_path / "diffusers").glob("*/*.fp16*"))
    assert launch("export", [f"run={run}", "format=single_file", f"out={tmp_path / 'x.safetensors'}", *CALM]) == 2
    assert "has latents_mean=[0.3, -0.1, 0.2, 0.0], latents_std=" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["alpha", "torn", "no text encoder"])
def test_an_export_that_gives_other_images_is_not_kept(
    runs: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
) -> None:
    write = lora_kohya.write

    def torn(model: object, folder: Path) -> Path:
        file = write(model, folder)  # type: ignore[arg-type]
        file.write_bytes(file.read_bytes()[:-9])
        return file

    if fault == "alpha":
        monkeypatch.setattr(lora_kohya, "rank_and_alpha", lambda model: (4, 4.0))
    elif fault == "torn":
        monkeypatch.setattr(lora_kohya, "write", torn)
    else:
        monkeypatch.setattr(Model, "text_adapters", {})
    run = runs("sd15", *LORA, *([TEXT] if fault == "no text encoder" else []))
    code = launch("export", [f"run={run}", "format=lora_kohya", f"out={tmp_path / 'out'}", *CALM])
    assert code == 3
    told = capsys.readouterr().err
    assert ("cannot load the export" if fault == "torn" else "differs from the run") in told
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_kohya_s_names_of_text_encoders(tiny: Tiny, runs: Callable[..., Path], tmp_path: Path) -> None:
    """The last layer of XL's first encoder, which nothing reads, has none."""
    model = Model(load_pipeline(runs("sdxl", *LORA, TEXT)), tiny("sdxl"), "x")
    with safe_open(lora_kohya.write(model, tmp_path), "pt") as file:
        names = {name.partition(".")[0] for name in file.keys()}  # noqa: SIM118
    assert {name for name in names if not name.startswith("lora_unet_")} == {
        f"lora_te{number}_text_model_encoder_layers_{layer}_self_attn_{part}"
        for number, layers in ((1, range(2)), (2, range(3)))
        for layer in layers
        for part in ("q_proj", "k_proj", "v_proj", "out_proj")
    }


def decision(run: Path, **other: Any) -> Decision:
    facts = {
        "verdict": "approved",
        "use": "campaign X",
        "by": "Ada",
        "date": "2026-12-01T10:00:00+00:00",
        "approved": 3,
    }
    weights = file_sha256(run / "weights.safetensors")
    return Decision(**{**facts, "weights": weights, "scale": 1.0, **other})


@pytest.mark.slow
def test_one_file_with_its_card(tiny: Tiny, make_run: MakeRun, tmp_path: Path) -> None:
    base = shutil.copytree(tiny("sd15"), tmp_path / "base")
    (base / "README.md").write_text("---\nlicense: creativeml-openrail-m\n---\n# A base\n")
    words = ["data.captions.trigger=zkx", "data.captions.templates=['{caption}, {trigger} style']"]
    run = make_run(tmp_path / "run", "experiment=sd15_full", f"pretrained={base}", *LORA, *words)
    data = {"samples": 7, "licenses": {"CC0-1.0": 5, "<b>`odd`|": 2}, "sources": {"icons": 7}}
    (run / "data.json").write_text(json.dumps(data))
    out = tmp_path / "out" / "brand.safetensors"
    record(run, decision(run))
    arguments = [f"run={run}", "format=lora_kohya", f"out={out}", *CALM]
    assert launch("export", [*arguments, "require_approval=true"]) == 0
    assert sorted(path.name for path in out.parent.iterdir()) == ["brand.md", "brand.png", "brand.safetensors"]
    with safe_open(out, "pt") as file:
        assert file.metadata()["ss_network_dim"] == "4"
        name = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_out_0"
        assert file.get_tensor(f"{name}.alpha").item() == 6
    card = out.with_suffix(".md").read_text()
    head = yaml.safe_load(card.split("---")[1])
    assert "license" not in head
    assert "under creativeml-openrail-m" in card
    assert "approved for campaign X: by Ada on 2026-12-01 (3 samples approved, 0 rejected)" in card
    assert out.stat().st_mode == out.with_suffix(".md").stat().st_mode
    assert head["instance_prompt"] == "zkx"
    for told in ("zkx", "{caption}, {trigger} style", "CC0-1.0 | 5", "SHA-256", "![samples](brand.png)", "rank: 4"):
        assert told in card, told
    assert str(tmp_path) not in card
    assert "<b>" not in card


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["format=lora"], "no such format; use diffusers, lora_peft, lora_kohya, single_file"),
        (["format=diffusers", "out=x.safetensors"], "diffusers writes a folder"),
        (["format=diffusers", "tolerance=0"], "must be above 0"),
        (["format=lora_peft"], "must have an adapter, but it trained all weights"),
        (["format=diffusers", "proof.num_steps=3"], "must divide the model's 1000"),
    ],
)
def test_what_cannot_be_is_refused(
    runs: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    out = [] if any("out=" in argument for argument in arguments) else [f"out={tmp_path / 'out'}"]
    assert launch("export", [f"run={runs('sd15')}", *out, *arguments]) == 2
    assert told in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


FOREIGN = {
    "a link to a file": ("text_encoder/notes.json", lambda file, secret: file.symlink_to(secret)),
    "a relative link": ("tokenizer/notes.txt", lambda file, secret: file.symlink_to(f"../../{secret.name}")),
    "a link over a link": (
        "vae/a",
        lambda file, secret: (file.symlink_to("b"), (file.parent / "b").symlink_to(secret)),
    ),
    "a link to a folder": ("vae/more", lambda file, secret: file.symlink_to(secret.parent)),
    "a link to itself above": ("vae/loop", lambda file, secret: file.symlink_to(file.parent)),
    "the index": ("model_index.json", lambda file, secret: (file.rename(secret), file.symlink_to(secret))),
    "a device": ("vae/device", lambda file, secret: os.mkfifo(file)),
    "a folder above": ("model_index.json", lambda file, secret: index(file, "../private", "diffusers")),
    "a module": ("model_index.json", lambda file, secret: index(file, "extra", "antigravity")),
}


def index(file: Path, name: str, library: str) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | {name: [library, "X"]}))


@pytest.mark.parametrize("form", ["diffusers", "single_file"])
@pytest.mark.parametrize(("name", "plant"), FOREIGN.values(), ids=FOREIGN)
def test_a_base_with_links_to_private_files_or_foreign_modules_is_refused(
    runs: Callable[..., Path],
    tiny: Tiny,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    form: str,
    name: str,
    plant: Callable[[Path, Path], object],
) -> None:
    base = shutil.copytree(tiny("sd15"), tmp_path / "base")
    (tmp_path / "private").write_text("CANARY")
    plant(base / name, tmp_path / "private")
    before = sorted(tmp_path.iterdir())
    arguments = [f"run={runs('sd15')}", f"network.model={base}", f"format={form}", f"out={tmp_path / 'out'}"]
    assert launch("export", arguments) == 2
    told = capsys.readouterr().err
    assert f"network.model={base}: " in told
    assert name.rpartition("/")[2] in told
    assert sorted(tmp_path.iterdir()) == before


def test_the_hub_s_cache_keeps_files_beside_its_snapshots(tiny: Tiny, tmp_path: Path) -> None:
    snapshot = shutil.copytree(tiny("sd15"), tmp_path / "models--a--b" / "snapshots" / ("0" * 40))
    blobs = tmp_path / "models--a--b" / "blobs"
    blobs.mkdir()
    for number, file in enumerate(sorted(path for path in snapshot.rglob("*") if path.is_file())):
        file.rename(blobs / str(number))
        file.symlink_to(os.path.relpath(blobs / str(number), file.parent))
    check_contents(snapshot, "pretrained")
    blobs.rename(tmp_path / "private")
    blobs.symlink_to(tmp_path / "private")
    with pytest.raises(ValueError, match="a link out of the folder"):
        check_contents(snapshot, "pretrained")


def test_a_sample_grid_that_is_a_link_is_not_copied(tmp_path: Path) -> None:
    samples = RunFolder(tmp_path / "run").samples
    samples.mkdir(parents=True)
    (samples / "step_1.png").write_text("")
    (tmp_path / "private.png").write_text("CANARY")
    (samples / "step_2.png").symlink_to(tmp_path / "private.png")
    assert RunFolder(tmp_path / "run").last_samples == samples / "step_1.png"


def test_an_export_that_must_be_approved_is_refused_without(
    tiny: Tiny, make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run", "experiment=sd15_full", f"pretrained={tiny('sd15')}", *LORA)
    arguments = [f"run={run}", f"out={tmp_path / 'out'}", "require_approval=true"]
    assert launch("export", arguments) == 2
    told = capsys.readouterr().err
    assert "nobody has approved the images of this run; " in told
    assert f"write its report: diffusion-train report run={run}\n" in told
    record(run, decision(run))
    assert launch("export", [*arguments, "adapter.scale=0.5"]) == 2
    assert "for adapter.scale=1 only, not for adapter.scale=0.5" in capsys.readouterr().err
    for changed in ("adapter.alpha=64", f"autoencoder.source={tiny('sdxl')}", "data.captions.trigger=zkx"):
        assert launch("export", [*arguments, changed]) == 2
        told = capsys.readouterr().err
        assert f"{changed.partition('=')[0]}\n    the approval is not for" in told
    assert not (tmp_path / "out").exists()


def test_weights_that_are_replaced_while_they_are_read_are_refused(
    tiny: Tiny, make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a training that saves: the approval would be of other weights than those that are exported."""
    base = ("experiment=sd15_full", f"pretrained={tiny('sd15')}", *LORA)
    run, other = make_run(tmp_path / "run", *base), make_run(tmp_path / "other", *base)
    record(run, decision(run))
    weights = other / "weights.safetensors"
    save_file(load_file(weights), weights, {**safe_open(weights, "pt").metadata(), "more": "x"})

    def replacing(*arguments: Any, **other: Any) -> Any:
        shutil.move(weights, run / "weights.safetensors")
        return load_pipeline(*arguments, **other)

    monkeypatch.setattr("diffusion_train.command.export.load_pipeline", replacing)
    assert launch("export", [f"run={run}", f"out={tmp_path / 'out'}", "require_approval=true"]) == 2
    assert "weights.safetensors: was replaced while the command read it" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_is_there_is_not_overwritten(
    runs: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").write_text("mine")
    assert launch("export", [f"run={runs('sd15')}", f"out={tmp_path}"]) == 2
    assert "exists already" in capsys.readouterr().err


def test_a_network_of_ours_is_refused(make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run", "experiment=ddpm_cifar_style", "network.channels=[8,8,8,8]")
    assert launch("export", [f"run={run}", f"out={tmp_path / 'out'}"]) == 2
    assert "diffusers cannot load UNet, a network of diffusion_train" in capsys.readouterr().err


def test_difference() -> None:
    zeros = torch.zeros(2)
    assert difference(zeros, torch.tensor([0.0, -2.0])) == 2
    assert difference(zeros, torch.tensor([0.0, float("nan")])) == float("inf")
    assert difference(zeros, torch.zeros(3)) == float("inf")
