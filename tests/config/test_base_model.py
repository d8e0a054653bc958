"""The parts of the model that `pretrained` names are laid over the config; what was chosen against it is a mistake."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from safetensors.torch import save_file

from diffusion_train import config
from diffusion_train.config.base_model import describe
from diffusion_train.config.command_line.call import read_call
from diffusion_train.config.command_line.launch import first_pass, launch
from diffusion_train.config.mistakes import ConfigError
from diffusion_train.config.training_config import SETTINGS
from diffusion_train.pretrained import diffusers_folder
from diffusion_train.pretrained.single_file import Model, write_layout

ROOT = Path(__file__).parents[2]
RECIPE = ("experiment=sd15_full", "data.shards=some.tar", "run_dir=somewhere", "trainer.precision=32-true")


@pytest.fixture(autouse=True)
def _private_cache(private_cache):
    """Every test here."""


def folder_of(folder: Path, model: Model) -> Path:
    """Its description, with empty files for its weights."""
    write_layout(model, folder)
    kind = diffusers_folder.kind(folder, "it")
    for name in diffusers_folder.WEIGHTS[kind]:
        (folder / name / "model.safetensors").write_bytes(name.encode())
    for name in diffusers_folder.TOKENIZERS[kind]:
        (folder / name).mkdir()
    return folder


@pytest.fixture
def sd1(tmp_path):
    return folder_of(tmp_path / "sd1", Model("sd1", "epsilon", False))


@pytest.fixture
def sd2(tmp_path):
    return folder_of(tmp_path / "sd2", Model("sd2", "v", True))


@pytest.fixture
def sdxl(tmp_path):
    return folder_of(tmp_path / "sdxl", Model("sdxl", "epsilon", False))


@pytest.fixture
def run(tmp_path):
    """A run of a flow-matching text-to-image model at 48 pixels."""
    arguments = ("experiment=openmoji", "data.image_size=48", "guidance.scale=4", "network.dropout=0.3")
    saved = composed(*arguments, "run_dir=somewhere")
    folder = tmp_path / "run"
    config.save_config(saved, folder / "config.yaml")
    facts = {"format": 1, "config": config.redact(saved), "shape": [3, 48, 48]}
    save_file({}, folder / "weights.safetensors", {"diffusion_train": json.dumps(facts)})
    return folder


def composed(*arguments: str):
    cfg = first_pass(read_call("train", arguments))
    return OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"])


def grids(cfg) -> tuple[str, str]:
    """The classes of the model's grids for samplers of single steps and of several."""
    return tuple(cfg.sampler.grid[name]._target_.rpartition(".")[2] for name in ("single_step", "multistep"))


def mistakes(*arguments: str) -> list[tuple[str, str]]:
    with pytest.raises(ConfigError) as error:
        composed(*arguments)
    return [(mistake.where, f"{mistake.problem}; {mistake.remedy}") for mistake in error.value.mistakes]


def test_stable_diffusions_parts_and_sizes_are_its_own(sd1):
    cfg = composed(*RECIPE, f"pretrained={sd1}")
    config.check(cfg, read=SETTINGS)
    assert cfg.network == {
        "_target_": "diffusion_train.network.diffusers_unet.DiffusersUNet",
        "model": str(sd1),
        "gradient_checkpointing": False,
    }
    assert cfg.autoencoder.source == cfg.conditioner.encoder.source == str(sd1)
    assert cfg.condition == {"text_dim": 768, "pooled_dim": None, "num_labels": None, "concat_channels": 0}
    assert cfg.data.image_size == 512
    assert (cfg.diffusion.schedule.beta_start, cfg.diffusion.schedule.beta_end) == (0.00085, 0.012)
    assert cfg.diffusion.parameterization._target_.endswith(".Epsilon")
    assert grids(cfg) == ("Leading", "Linspace")
    assert cfg.sampler.grid.single_step.offset == 1
    assert (cfg.base_record.kind, cfg.base_record.folder) == ("sd", str(sd1))


def test_latents_are_not_clipped_whatever_the_recipe_says_of_pixels(sd1):
    cfg = composed("experiment=openmoji", "run_dir=somewhere", f"pretrained={sd1}", "trainer.precision=32-true")
    config.check(cfg, read=SETTINGS)
    assert cfg.sampler.clip_x0 is False
    assert cfg.autoencoder._target_.endswith(".KL")


def test_v_prediction_and_zero_terminal_snr_are_read(sd2):
    cfg = composed(*RECIPE, f"pretrained={sd2}")
    assert cfg.diffusion.parameterization._target_.endswith(".V")
    assert cfg.diffusion.schedule.zero_terminal_snr is True
    assert grids(cfg) == ("Trailing", "Trailing")
    assert cfg.data.image_size == 768


def test_xl_brings_its_conditioner_and_both_widths(sdxl):
    cfg = composed(*RECIPE, f"pretrained={sdxl}", "base.accepts=null")
    config.check(cfg, read=SETTINGS)
    assert cfg.conditioner._target_.endswith(".SDXL")
    assert (cfg.condition.text_dim, cfg.condition.pooled_dim, cfg.data.image_size) == (2048, 1280, 1024)


def test_the_command_line_sets_what_is_free(sd1):
    chosen = ("sampler=heun", "guidance.scale=3", "data.image_size=256", "network.gradient_checkpointing=true")
    cfg = composed(*RECIPE, f"pretrained={sd1}", *chosen, "diffusion/weighting=min_snr", "autoencoder.dtype=bfloat16")
    config.check(cfg, read=SETTINGS)
    assert (cfg.sampler._target_.rpartition(".")[2], cfg.guidance.scale, cfg.data.image_size) == ("Heun", 3, 256)
    assert grids(cfg) == ("Leading", "Linspace")
    assert cfg.network.gradient_checkpointing is True
    assert cfg.diffusion.weighting._target_.endswith(".MinSNR")
    assert cfg.autoencoder.dtype == "bfloat16"


@pytest.mark.parametrize("option", ["dpm_solver", "unipc", "ddim", "euler"])
def test_a_sampler_takes_the_grid_of_the_model_in_training_and_when_sampling(sd1, tmp_path, option):
    trained = composed(*RECIPE, f"pretrained={sd1}", f"sampler={option}")
    config.save_config(composed(*RECIPE, f"pretrained={sd1}"), tmp_path / "run" / "config.yaml")
    for cfg in (trained, config.compose_run(tmp_path / "run", [f"sampler={option}"], [ROOT / "conf"])):
        sampler = config.build(cfg.sampler)
        levels = sampler.grid(config.build(cfg.diffusion.schedule), 10) * 1000
        assert levels[-2] == {"ddim": 2, "euler": 1}.get(option, 101)
        assert levels[-1] == (option == "ddim")


@pytest.mark.parametrize("chosen", ["by value", "by an option"])
def test_a_grid_chosen_by_hand_stays(sd1, tmp_path, chosen):
    karras = "{_target_: diffusion_train.sampler.grid.Karras, rho: 5.0}"
    own = tmp_path / "own" / "sampler"
    own.mkdir(parents=True)
    head = "_target_: diffusion_train.sampler.dpm_solver.DPMSolver\nnum_steps: 9\nclip_x0: false"
    (own / "mine.yaml").write_text(f"{head}\ngrid: {karras}\n")
    arguments = ["sampler=mine"] if chosen == "by an option" else ["sampler=dpm_solver", f"sampler.grid={karras}"]
    trained = composed(*RECIPE, f"pretrained={sd1}", *arguments, "--config-dir", str(own.parent))
    config.save_config(composed(*RECIPE, f"pretrained={sd1}"), tmp_path / "run" / "config.yaml")
    for cfg in (trained, config.compose_run(tmp_path / "run", arguments, [ROOT / "conf", own.parent])):
        assert config.build(cfg.sampler).grid.rho == 5


@pytest.mark.parametrize("again", [[], ["sampler=unipc"], ["sampler=unipc", "sampler/grid=karras"]], ids=len)
def test_karras_levels_start_and_label_as_the_model_does(sd1, tmp_path, again):
    """Chosen in training or when sampling, and kept by a sampler that is chosen later."""
    chosen = ["sampler=dpm_solver", "sampler/grid=karras"]
    trained = composed(*RECIPE, f"pretrained={sd1}", *chosen)
    config.save_config(composed(*RECIPE, f"pretrained={sd1}"), tmp_path / "plain" / "config.yaml")
    config.save_config(trained, tmp_path / "karras" / "config.yaml")
    sampled = [("plain", chosen), ("karras", again)]
    for cfg in (trained, *(config.compose_run(tmp_path / name, given, [ROOT / "conf"]) for name, given in sampled)):
        schedule, grid = config.build(cfg.diffusion.schedule), config.build(cfg.sampler).grid
        times = grid(schedule, 7)
        labels = grid.on(schedule).label(times[:-1])
        assert grid.unit_start
        assert labels.tolist() == labels.round().tolist() != schedule.label(times[:-1]).tolist()


def test_the_uniform_grid_can_be_chosen_for_a_model(sd1):
    cfg = composed(*RECIPE, f"pretrained={sd1}", "sampler/grid=uniform")
    assert cfg.sampler.grid == {"_target_": "diffusion_train.sampler.grid.Uniform"}


def test_a_recipe_sets_what_is_no_part_of_the_model(sd1, tmp_path):
    own = tmp_path / "conf" / "experiment"
    own.mkdir(parents=True)
    lines = ["# @package _global_", "defaults: [sd15_full]", "network: {gradient_checkpointing: true}"]
    (own / "mine.yaml").write_text("\n".join(lines))
    arguments = ["experiment=mine", *RECIPE[1:], f"pretrained={sd1}", "--config-dir", str(own.parent)]
    assert composed(*arguments).network == {
        "_target_": "diffusion_train.network.diffusers_unet.DiffusersUNet",
        "model": str(sd1),
        "gradient_checkpointing": True,
    }


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("diffusion=flow", "whose diffusion.schedule is"),
        ("diffusion/schedule=cosine", "is ScaledLinear num_steps=1000"),
        ("diffusion/parameterization=v", "is Epsilon; leave it out"),
        ("diffusion.schedule.beta_end=0.02", "beta_end=0.012"),
        ("network=dit", "whose network is"),
        ("conditioner=packaged_text", "whose conditioner is Text with CLIPText; leave it out"),
        ("conditioner=t5", "whose conditioner is Text with CLIPText; leave it out"),
        ("autoencoder=identity", "whose autoencoder is"),
    ],
)
def test_what_contradicts_the_model_is_a_mistake(sd1, argument, said):
    [(where, text)] = mistakes(*RECIPE, f"pretrained={sd1}", argument)
    assert where == argument
    assert said in text


def test_what_agrees_with_the_model_is_none(sd1):
    cfg = composed(*RECIPE, f"pretrained={sd1}", "network=diffusers_unet", "diffusion.schedule.beta_end=0.012")
    assert composed(*RECIPE, f"pretrained={sd1}", "conditioner=clip_text").conditioner.encoder.source == str(sd1)
    assert cfg.diffusion.schedule.beta_end == 0.012


def test_mistakes_of_every_kind_are_told_at_once(sd1):
    wrong = ("network.gradient_chekpointing=true", "condition_dropot=1", "diffusion/parameterization=v")
    found = dict(mistakes(*RECIPE, f"pretrained={sd1}", *wrong, "network.gradient_checkpointing=7"))
    assert found.keys() == {*wrong, "network.gradient_checkpointing=7"}
    assert "did you mean network.gradient_checkpointing?" in found[wrong[0]]


def test_a_recipe_without_a_model_shows_how_to_give_one():
    [(where, text)] = mistakes(*RECIPE)
    assert where == "pretrained"
    assert "must be given; add pretrained=<a folder in diffusers' layout" in text


def test_a_recipe_for_other_models_says_so(sdxl):
    [(where, text)] = mistakes(*RECIPE, f"pretrained={sdxl}")
    assert where == f"pretrained={sdxl}"
    assert "is Stable Diffusion XL, but sd15_full is for Stable Diffusion 1 or 2" in text
    assert "use experiment=sdxl_lora" in text


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "flow matching"),
        ({"beta_schedule": "squaredcos_cap_v2"}, "beta_schedule=squaredcos_cap_v2"),
        ({"prediction_type": "flow_prediction"}, "prediction_type=flow_prediction"),
        ({"rescale_betas_zero_snr": True}, "zero terminal SNR, with which epsilon is undefined"),
        ({"num_train_timesteps": 0}, "at least 2 steps"),
        ({"beta_end": 1.5}, "betas between 0 and 1"),
    ],
    ids=["flow", "betas", "prediction", "zero SNR", "no steps", "beta above 1"],
)
def test_an_impossible_scheduler_is_a_mistake(sd1, settings, said):
    file = sd1 / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    [(_, text)] = mistakes(*RECIPE, f"pretrained={sd1}")
    assert said in text


def test_a_run_brings_all_that_its_images_depend_on(run):
    cfg = composed(*RECIPE, f"pretrained={run}")
    config.check(cfg, read=SETTINGS)
    assert cfg.network._target_.endswith(".UNet")
    assert cfg.diffusion.schedule._target_.endswith(".RectifiedFlow")
    assert cfg.diffusion.time_sampler._target_.endswith(".LogitNormal")
    assert cfg.conditioner.encoder._target_.endswith(".PackagedText")
    assert cfg.autoencoder._target_.endswith(".Identity")
    assert (cfg.condition.text_dim, cfg.data.image_size) == (384, 48)
    assert (cfg.sampler.num_steps, cfg.guidance.scale, cfg.network.dropout) == (16, 4, 0.3)
    assert cfg.optimizer.lr == 1e-5


def test_keys_that_only_the_runs_parts_have_can_be_set(run):
    cfg = composed(*RECIPE, f"pretrained={run}", "network.dropout=0.1", "sampler.num_steps=5", "sampler.clip_x0=false")
    assert (cfg.network.dropout, cfg.sampler.num_steps, cfg.sampler.clip_x0) == (0.1, 5, False)
    [(where, _)] = mistakes(*RECIPE, f"pretrained={run}", "network.modell=x")
    assert where == "network.modell=x"


def test_hydras_own_pass_gets_the_same_config(run, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    arguments = [*RECIPE[:2], f"pretrained={run}", "network.dropout=0.1", "run_dir=there", "sampler=heun"]
    seen = []

    def body(cfg):
        seen.append((OmegaConf.to_container(cfg), list(sys.argv)))
        return 0

    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    launch(read_call("train", arguments), body)
    [(cfg, relaunch)] = seen
    assert cfg["network"]["dropout"] == 0.1
    assert cfg["network"] == OmegaConf.to_container(composed(*arguments))["network"]
    again = composed(*relaunch[1:])  # what Lightning's further processes are started with
    assert again.network.dropout == 0.1


def test_a_run_of_an_adapter_needs_what_it_was_trained_on(run, tmp_path):
    first = run.rename(tmp_path / "first")
    saved = composed("experiment=openmoji", "adapter=lora", f"pretrained={first}", "run_dir=somewhere")
    run.mkdir()
    facts = {"format": 1, "config": config.redact(saved), "shape": [3, 48, 48]}
    save_file({}, run / "weights.safetensors", {"diffusion_train": json.dumps(facts)})
    cfg = composed(*RECIPE, f"pretrained={run}")
    assert (cfg.base_record.kind, cfg.base_record.folder) == ("run", str(run))
    assert cfg.network == composed(*RECIPE, f"pretrained={first}").network
    assert cfg.adapter._target_.endswith(".NoAdapter")  # the recipe's
    first.rename(tmp_path / "moved")
    [(where, text)] = mistakes(*RECIPE, f"pretrained={run}")
    assert where == f"pretrained={run}"
    assert f"was read from {first}, which no longer exists" in text


def test_a_run_that_adapts_text_encoders_is_refused(run):
    saved = composed("experiment=openmoji", "adapter=lora", "pretrained=" + str(run), "run_dir=somewhere")
    plain = config.redact(saved)
    plain["adapter"]["text_encoder"] = {"rank": 4}
    save_file(
        {},
        run / "weights.safetensors",
        {"diffusion_train": json.dumps({"format": 1, "config": plain, "shape": [3, 48, 48]})},
    )
    [(_, text)] = mistakes(*RECIPE, f"pretrained={run}")
    assert "a run with adapted text encoders cannot be a base model" in text
    assert "export run=" in text


def test_a_run_without_weights_yet_says_so(run):
    (run / "weights.safetensors").unlink()
    [(_, text)] = mistakes(*RECIPE, f"pretrained={run}")
    assert "no weights.safetensors found; the run writes it with its first checkpoint" in text


def test_a_runs_text_stays_text(run):
    """A config from a file may hold what would be an interpolation in ours."""
    saved = composed("experiment=openmoji", "run_dir=somewhere")
    plain = config.redact(saved)
    plain["network"]["dropout"] = "${oc.env:HOME}"
    save_file(
        {},
        run / "weights.safetensors",
        {"diffusion_train": json.dumps({"format": 1, "config": plain, "shape": [3, 48, 48]})},
    )
    nodes = describe(str(run)).nodes
    assert OmegaConf.create({"network": nodes["network"]}).network.dropout == "${oc.env:HOME}"


def test_settling_records_the_weights_and_refuses_others(sd1, sd2, tmp_path):
    cfg = composed(*RECIPE, f"pretrained={sd1}")
    config.resolve_files(cfg)
    assert len(cfg.base_record.sha256) == 64
    digest, moved = cfg.base_record.sha256, sd1.rename(tmp_path / "moved")
    with pytest.raises(
        ValueError, match=r"no such folder or file.*; if it has moved, add pretrained=<where it is now>"
    ):
        config.resolve_files(cfg)
    cfg.pretrained = str(moved)
    config.resolve_files(cfg)
    assert cfg.base_record.sha256 == digest
    assert cfg.network.model == cfg.autoencoder.source == cfg.conditioner.encoder.source == str(moved)
    (moved / "unet" / "model.safetensors").write_bytes(b"other")
    with pytest.raises(ValueError, match=r"pretrained=.*moved: the SHA-256 of the weights must be base\.sha256="):
        config.resolve_files(cfg)


def test_a_relative_place_is_recorded_whole(sd1, monkeypatch):
    monkeypatch.chdir(sd1.parent)
    cfg = composed(*RECIPE, "pretrained=sd1", "base.tokenizer=sd1")
    config.resolve_files(cfg)
    assert cfg.pretrained == cfg.network.model == cfg.base.tokenizer == str(sd1)


def test_a_place_of_ones_own_is_left_alone(sd1):
    cfg = composed(*RECIPE, f"pretrained={sd1}", "autoencoder.source=elsewhere")
    config.resolve_files(cfg)
    assert cfg.autoencoder.source == "elsewhere"


def test_mistakes_come_before_heavy_imports(sd1):
    code = (
        "import sys; from diffusion_train.command.cli import launch; code = launch('train', sys.argv[1:]); "
        "print(code, {'torch', 'diffusers', 'transformers'} & set(sys.modules))"
    )
    start = time.perf_counter()
    command = [sys.executable, "-c", code, *RECIPE, f"pretrained={sd1}", "diffusion=flow"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "2 set()\n"
    assert "leave it out" in done.stderr
    assert time.perf_counter() - start < 20  # two seconds on an idle machine


def test_the_whole_config_is_shown(sd1, capsys):
    call = read_call("train", [*RECIPE, f"pretrained={sd1}", "--cfg", "job"])
    assert launch(dataclasses.replace(call), lambda cfg: 1) == 0
    assert f"model: {sd1}" in capsys.readouterr().out


def test_the_licence_of_a_model_is_recorded_as_its_card_says_it_or_as_you_do(sd1, run):
    cfg = composed(*RECIPE, f"pretrained={sd1}")
    config.resolve_files(cfg)
    assert cfg.base_record.license is None
    (sd1 / "README.md").write_text("---\nlicense: creativeml-openrail-m\n---\n")
    config.resolve_files(cfg)
    assert cfg.base_record.license == "creativeml-openrail-m"
    told = composed(*RECIPE, f"pretrained={sd1}", "base.license=mine")
    config.resolve_files(told)
    assert told.base_record.license == "mine"
    config.save_config(told, run / "config.yaml")
    facts = {"format": 1, "config": config.redact(told), "shape": [3, 48, 48]}
    save_file({}, run / "weights.safetensors", {"diffusion_train": json.dumps(facts)})
    second = composed(*RECIPE, f"pretrained={run}")
    config.resolve_files(second)
    assert second.base_record.license == "mine"  # what the run below stands on


def test_a_recipe_knows_other_settings_for_runs_of_ours(sd1, run):
    recipe = ("experiment=brand", "run_dir=somewhere", "trainer.precision=32-true")
    ours = composed(*recipe, f"pretrained={run}")
    assert (ours.optimizer.lr, ours.adapter.rank, ours.lr_schedule.num_steps) == (2e-3, 32, 900)
    assert ours.trainer.max_steps == 900
    theirs = composed(*recipe, f"pretrained={sd1}")
    assert (theirs.optimizer.lr, theirs.adapter.rank, theirs.lr_schedule.num_steps) == (1e-4, 16, 600)
    assert ours.base.settings is None  # they are plain settings from then on
    chosen = composed(*recipe, f"pretrained={run}", "adapter.rank=4", "optimizer=adamw")
    assert (chosen.adapter.rank, chosen.lr_schedule.num_steps) == (4, 900)
    assert chosen.optimizer.lr == 1e-4  # another optimizer brings its own


def test_a_setting_of_a_recipe_that_is_no_key_is_told(run):
    wrong = "base.settings={run: {optimizer: {learning_rate: 1, lr: 0.5}}}"
    [(where, text)] = mistakes(*RECIPE, f"pretrained={run}", wrong)
    assert where == "base.settings.run.optimizer.learning_rate"
    assert text == "there is no such key; correct the recipe"
