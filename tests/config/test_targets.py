"""What a config may call, and that nothing else is even imported."""

from __future__ import annotations

import functools

import pytest
import torch
from omegaconf import OmegaConf

from diffusion_train import config
from diffusion_train.config.command_line.call import read_call
from diffusion_train.config.mistakes import ConfigError
from diffusion_train.config.targets import is_trusted, locate

HOSTILE = [
    "os.system",
    "builtins.eval",
    "builtins.exec",
    "builtins.open",
    "subprocess.run",
    "webdataset.gopen",
    "torch.load",
    "torch.hub.load",
    "torch.utils.cpp_extension.load",
    "numpy.load",
    "pickle.loads",
    "importlib.import_module",
    "functools.partial",
    "hydra.utils.instantiate",
    "hydra.utils.get_method",
    "diffusion_train.data.shard.index_file.os.system",
    "diffusion_train.data.os.system",
    "diffusion_train.sampler.grid.torch.load",
    "diffusion_train.sampler.grid.Uniform.__init__",
    "diffusion_train.config.targets.allow",
    "diffusion_train.command.cli.main",
    "diffusion_train.utils.rng.Rng",
    "diffusion_trainer.evil",
    "diffusion_train.sampler",
    "diffusion_train.sampler..grid.Uniform",
    "torch.optim.AdamW.step",
    "",
    None,
    7,
    ["os.system"],
]

HEUN = {"_target_": "diffusion_train.sampler.heun.Heun", "num_steps": 3}


@pytest.mark.parametrize("target", HOSTILE, ids=str)
@pytest.mark.parametrize("depth", ["at the top", "inside"])
def test_hostile_targets_are_refused_by_name(tmp_path, target, depth):
    canary = tmp_path / "canary"
    call = {"_target_": target, "_args_": [f"touch {canary}"]}
    grid = call if depth == "at the top" else {"_target_": "diffusion_train.sampler.grid.Karras", "rho": [{"a": call}]}
    with pytest.raises(ConfigError, match=r"sampler.grid.*_target_") as error:
        config.build(OmegaConf.create({"sampler": {"grid": grid}}).sampler)
    assert str(target) in str(error.value)
    assert not canary.exists()


def test_targets_behind_references_are_checked_too():
    cfg = OmegaConf.create({"evil": "os.system", "grid": {"_target_": "${evil}", "_args_": ["true"]}})
    with pytest.raises(ConfigError, match=r"'os.system' is not an allowed target"):
        config.build(cfg.grid)


def test_nothing_is_imported_while_one_target_is_not_allowed(tmp_path, monkeypatch):
    canary = tmp_path / "canary"
    (tmp_path / "evil_module.py").write_text(f"open({str(canary)!r}, 'w')\ndef f(): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError) as error:
        config.build([{"_target_": "evil_module.f"}, {"_target_": "os.system"}])
    assert len(error.value.mistakes) == 2
    assert not canary.exists()


@pytest.fixture
def my_package(tmp_path, monkeypatch):
    package = tmp_path / "my_package_for_targets"
    package.mkdir()
    (package / "__init__.py").write_text("from .inner import Network\n")
    (package / "inner.py").write_text(
        "import os\nfrom os import system\nfrom subprocess import run, Popen\n"
        "import torch\nfrom diffusion_train.data.shard.writer import write_shard\n"
        "class Network(torch.nn.Module):\n    def __init__(self, width):\n        super().__init__()\n"
        "        self.width = width\n"
        "class Plain: pass\ndef make(): return 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return package.name


def test_the_users_package_is_trusted_once_allowed(my_package):
    node = {"_target_": f"{my_package}.inner.Network", "width": 3}
    with pytest.raises(ConfigError, match=r"allow_targets="):
        config.build(node, "network")
    config.allow([f"{my_package}."])
    assert config.build(node, "network").width == 3
    assert config.build({**node, "_target_": f"{my_package}.Network"}, "network").width == 3


def test_inside_the_users_part_parts_of_ours_and_of_the_user_are_built(my_package):
    config.allow([f"{my_package}."])
    inner = [{"_target_": f"{my_package}.Network", "width": HEUN | {"grid": None}}]
    built = config.build({"_target_": f"{my_package}.Network", "width": inner}, "network")
    assert built.width[0].width.num_steps == 3


@pytest.mark.parametrize("key", ["name", "run_dir", "data.captions.templates", "callbacks.samples.prompts[0]", "mine"])
def test_the_users_part_fills_no_key_for_data(my_package, key):
    config.allow([f"{my_package}."])
    with pytest.raises(ConfigError, match=r"this key is for data, so leave _target_ out"):
        config.build({"_target_": f"{my_package}.Network", "width": 3}, key)


@pytest.mark.parametrize(
    ("key", "target", "words"),
    [
        ("sampler", "inner.Network", "must be a Sampler, got '.*Network'"),
        ("network", "inner.Plain", "must be a Module, got '.*Plain'"),
        ("network", "inner.make", "must give a Module, got a int"),
        ("callbacks.mine", "inner.Plain", "must be a Callback, got '.*Plain'"),
        ("logger.mine", "inner.Plain", "must be a Logger, got '.*Plain'"),
    ],
)
def test_the_users_part_is_of_the_kind_that_its_key_needs(my_package, key, target, words):
    config.allow([f"{my_package}."])
    with pytest.raises(ConfigError, match=words) as error:
        config.build({"_target_": f"{my_package}.{target}"}, key)
    assert error.value.mistakes[0].where == f"{key}._target_"


@pytest.mark.parametrize(
    "alias", ["inner.system", "inner.os.system", "inner.run", "inner.Popen", "inner.os", "inner.write_shard"]
)
def test_an_allowed_module_gives_no_way_to_what_it_imports(my_package, alias):
    config.allow([f"{my_package}."])
    with pytest.raises(ConfigError, match=r"another name of|cannot be imported|neither a class nor"):
        config.build({"_target_": f"{my_package}.{alias}", "args": ["true"]}, "network")


def test_an_entry_without_a_dot_is_no_prefix_of_other_names():
    config.allow(["my_pack"])
    assert is_trusted("my_pack.x.Y")
    assert not is_trusted("my_package.x.Y")


@pytest.mark.parametrize("entry", ["diffusion_train.", "diffusion_train", "diffusion_train.data.shard.writer.write"])
def test_nothing_of_this_package_is_allowed_by_name(entry):
    config.allow([entry])
    assert not is_trusted("diffusion_train.data.shard.writer.write")
    with pytest.raises(ConfigError, match=r"are already allowed; leave it out"):
        read_call("train", [f"allow_targets=[{entry}]"])


@pytest.mark.parametrize(
    "name", ["torch.optim.AdamW", "pytorch_lightning.Trainer", "diffusion_train.sampler.ddim.DDIM"]
)
def test_what_recipes_need_is_trusted(name):
    assert locate(name).__name__ == name.rpartition(".")[2]


def test_arguments_of_code_reach_the_target_untouched_and_win():
    single_step, items = object(), [object()]
    node = {"_target_": "diffusion_train.sampler.grid.BySampler", "single_step": "???", "multistep": 3}
    grid = config.build(node, "sampler.grid", single_step=single_step)
    assert grid.grids == {"single_step": single_step, "multistep": 3, "euler": single_step}
    assert config.build(node, "sampler.grid", single_step=items, multistep=5).grids["single_step"] is items


def test_parts_inside_parts_are_built_with_what_they_refer_to():
    grid = {"_target_": "diffusion_train.sampler.grid.Karras", "rho": 5.0}
    cfg = OmegaConf.create({"a": 4, "sampler": {**HEUN, "num_steps": "${a}", "grid": grid}})
    sampler = config.build(cfg.sampler)
    assert (sampler.num_steps, sampler.grid.rho) == (4, 5.0)


def test_data_is_plain():
    grid = {"_target_": "diffusion_train.sampler.grid.BySampler", "single_step": [1, {"x": [2]}], "multistep": 3}
    built = config.build({"sampler": {"grid": grid}, "two": {"x": [1]}})
    single_step = built["sampler"]["grid"].grids["single_step"]
    assert type(single_step) is list
    assert type(single_step[1]) is dict
    assert type(built["two"]["x"]) is list


def test_a_partial_waits_for_the_rest():
    node = {"_target_": "diffusion_train.training.optimizer.adamw", "_partial_": True, "lr": 0.5}
    make = config.build(node, "optimizer")
    assert isinstance(make, functools.partial)
    weights = [torch.nn.Parameter(torch.zeros(1))]
    assert make([{"params": weights}]).defaults["lr"] == 0.5
    assert config.build(node, "optimizer", lr=0.25)([{"params": weights}]).defaults["lr"] == 0.25


def test_what_a_part_raises_is_not_wrapped():
    schedule = {"_target_": "diffusion_train.diffusion.schedule.linear.Linear", "beta_start": 7.0}
    with pytest.raises(ValueError, match="beta"):
        config.build({"diffusion": {"schedule": schedule}})
