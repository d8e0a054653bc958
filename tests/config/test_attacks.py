"""Configurations of others: none writes a file, sends a request or imports a module; each is refused by its key."""

from __future__ import annotations

import copy
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from diffusion_train import config
from diffusion_train.command.cli import launch
from diffusion_train.config.command_line.compose import Composer
from diffusion_train.config.folders import conf_folder
from diffusion_train.config.training_config import SETTINGS
from diffusion_train.training.weights import save_weights

READ = {"_target_": "diffusion_train.prepare.source.base.read_file", "path": "SECRET"}
SEND = {"_target_": "diffusion_train.logger.wandb.unusable", "base_url": "URL", "key": READ, "timeout_s": 1}
TAR = {"_target_": "diffusion_train.data.shard.writer.write_shard", "samples": [], "path": "OUT/x.tar"}
LEDGER = {"_target_": "diffusion_train.prepare.ledger.Ledger", "out": "OUT/folder", "settings": {}}
EVIL = {"_target_": "evil_module.call"}
SHELL = {"_target_": "os.system", "command": "touch OUT/canary"}
GRID = {"_target_": "diffusion_train.sampler.grid.Uniform"}
HEUN = {"_target_": "diffusion_train.sampler.heun.Heun", "num_steps": 2, "grid": GRID}
MLP = {"_target_": "diffusion_train.network.mlp.MLP", "in_channels": 2, "width": 8, "depth": 1}
TEXT = {"_target_": "diffusion_train.conditioner.text.text_conditioner.Text"}
PRECISION = "trainer.precision=32-true"
JOINT = "diffusion_train.conditioner.joint.Joint"


class Attack(NamedTuple):
    key: str
    node: Any
    at: str = "_target_"  # what the message names below the key


ATTACKS = {
    "a file is read and sent": Attack("network", SEND),
    "sent by a sampler": Attack("sampler", SEND),
    "sent by a grid": Attack("sampler.grid", SEND),
    "sent by a callback": Attack("callbacks.mine", SEND),
    "sent by a logger": Attack("logger.mine", SEND),
    "sent by the schedule": Attack("diffusion.schedule", SEND),
    "sent by the source of captions": Attack("data.captions", {"source": SEND}, "source._target_"),
    "sent by an aligned tensor": Attack("data.aligned", {"x": SEND}, "x._target_"),
    "read as an argument of a right part": Attack("network.width", READ),
    "sent by a message to the hub": Attack("network", {"_target_": "diffusion_train.pretrained.hub.snapshot"}),
    "a tar is written": Attack("guidance", TAR),
    "a tar is written by a nested target": Attack("optimizer", {"_target_": "torch.optim.SGD", "x": TAR}, "x._target_"),
    "a tar is written in a list": Attack("network.channels", [1, [TAR]], "[1][0]._target_"),
    "weights are written": Attack(
        "adapter",
        {"_target_": "diffusion_train.training.weights.save_weights", "path": "OUT/w.safetensors", "weights": {}},
    ),
    "a folder is made": Attack("ema", LEDGER),
    "a folder is made by the prompts": Attack("callbacks.samples", {"prompts": LEDGER}, "prompts._target_"),
    "drawn images are kept": Attack("autoencoder", {"_target_": "diffusion_train.prepare.packages.cached_shards"}),
    "a template is a part": Attack("data.captions", {"templates": [TAR]}, "templates[0]._target_"),
    "a listed part in the wrong slot": Attack("network", {"_target_": "pytorch_lightning.Trainer"}),
    "a grid for a sampler": Attack("sampler", GRID),
    "a logger that makes a file, as a callback": Attack(
        "callbacks.mine", {"_target_": "diffusion_train.logger.metrics_file.MetricsFile", "run_dir": "OUT"}
    ),
    "a logger of Lightning": Attack("logger.mine", {"_target_": "pytorch_lightning.loggers.CSVLogger"}),
    "a profiler of Lightning": Attack("trainer.profiler", {"_target_": "pytorch_lightning.profilers.AdvancedProfiler"}),
    "callbacks of the trainer": Attack("trainer.callbacks", [TAR], "[0]._target_"),
    "a conditioner's part": Attack(
        "conditioner", {"_target_": JOINT, "parts": {"a": {**TEXT, "encoder": TAR}}}, "parts.a.encoder._target_"
    ),
    "a conditioner deep in conditioners": Attack(
        "conditioner", {"_target_": JOINT, "parts": {"a": {"_target_": JOINT, "parts": {"b": EVIL}}}}, "parts.a.parts.b"
    ),
    "a module is imported": Attack("network", EVIL),
    "a module is imported by the name": Attack("name", EVIL),
    "the run folder": Attack("run_dir", EVIL),
    "the seed": Attack("seed", SHELL),
    "the sizes of conditions": Attack("condition.text_dim", SHELL),
    "a setting of the base": Attack("base", {"settings": None, "license": SHELL}, "license._target_"),
    "a key of its own": Attack("extra", SHELL),
    "a list of its own": Attack("extra", [[{"a": SHELL}]], "[0][0].a._target_"),
    "a shell": Attack("network", SHELL),
    "a pipe": Attack("data.shards", {"_target_": "webdataset.gopen", "url": "pipe:touch OUT/canary"}),
    "a pickle": Attack("network", {"_target_": "torch.load", "f": "SECRET"}),
    "a builtin": Attack("network", {"_target_": "builtins.open", "file": "OUT/canary", "mode": "w"}),
    "a request": Attack("network", {"_target_": "urllib.request.urlopen", "url": "URL"}),
    "an alias through another module": Attack("sampler.grid", {"_target_": "diffusion_train.sampler.base.Uniform"}),
    "an alias of a module": Attack("trainer", {"_target_": "diffusion_train.data.datamodule.pl.Trainer"}),
    "an alias of the package": Attack("network", {"_target_": "diffusion_train.UNet"}),
    "a method of a listed class": Attack("network", {"_target_": "diffusion_train.network.mlp.MLP.load_state_dict"}),
    "a target that trusts others": Attack("network", {"_target_": "diffusion_train.config.targets.allow"}),
    "hydra as a target": Attack("network", {"_target_": "hydra.utils.instantiate", "config": SHELL}),
    "a target that is a list": Attack("network", {"_target_": ["os.system"]}),
    "a target that is a mapping": Attack("network", {"_target_": {"_target_": "os.system"}}),
    "a target that is a number": Attack("network", {"_target_": 7}),
    "a target that is nothing": Attack("network", {"_target_": None}),
    "positional arguments": Attack("network", {**MLP, "_args_": ["OUT"]}, "_args_"),
    "a target that is not called": Attack("network", {**MLP, "_partial_": True}, "_partial_"),
    "parts that are not built": Attack("sampler", {**HEUN, "_recursive_": False}, "_recursive_"),
    "arguments as configs": Attack("sampler", {**HEUN, "_convert_": "none"}, "_convert_"),
    "not built, outside of parts": Attack("extra", {"_recursive_": False}, "_recursive_"),
    "allowed by the file": Attack("allow_targets", ["os."], ""),
}
# `${...}` is text in a run, and means something in a folder of YAML files.
RESOLVED = {
    "a reference": Attack("network", {"_target_": "${name}"}),
    "a reference to a part of another kind": Attack("network", "${trainer}"),
    "a part from text": Attack("network", "${oc.create:'{_target_: os.system, command: touch OUT/canary}'}"),
    "text as yaml": Attack("network", {"_target_": "${oc.decode:os.system}"}),
    "a choice by time": Attack("network", {"_target_": "${oc.select:times.${now:%f},os.system}"}),
    "a list of mappings": Attack("network.width", "${oc.dict.values:callbacks}", "[0]._target_"),
}


class Trap(NamedTuple):
    folder: Path
    url: str
    requests: list[str]

    def set(self, node: Any) -> Any:
        """Return the node with paths and addresses of this trap."""
        if isinstance(node, dict):
            return {key: self.set(value) for key, value in node.items()}
        if isinstance(node, list):
            return [self.set(value) for value in node]
        if not isinstance(node, str):
            return node
        secret = str(self.folder / "secret")
        return node.replace("SECRET", secret).replace("OUT", str(self.folder / "out")).replace("URL", self.url)


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, list[str]]]:
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(f"{self.path} {self.headers.get('Authorization')}")
            self.send_error(404)

        do_POST = do_HEAD = do_PUT = do_GET

        def log_message(self, *_: Any) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_port}", requests
        served.shutdown()


@pytest.fixture
def trap(tmp_path: Path, server: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch) -> Iterator[Trap]:
    """A folder with a secret and an evil module, and a server; nothing may come to them."""
    (tmp_path / "secret").write_text("CANARY")
    (tmp_path / "evil_module.py").write_text("open('canary', 'w')\ndef call(): open('canary', 'w')\n")
    (tmp_path / "out").mkdir()
    (tmp_path / "given").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path / "out")
    monkeypatch.setenv("DIFFUSION_TRAIN_CACHE", str(tmp_path / "out"))
    server[1].clear()
    yield Trap(tmp_path, *server)
    assert list((tmp_path / "out").iterdir()) == []
    assert server[1] == []
    assert "evil_module" not in sys.modules


def placed(cfg: dict[str, Any], key: str, node: Any) -> dict[str, Any]:
    """Return a copy of a config with a node at a dotted key; a mapping is added to one that is there."""
    cfg = copy.deepcopy(cfg)
    *above, last = key.split(".")
    inner = cfg
    for name in above:
        inner[name] = inner[name] if isinstance(inner.get(name), dict) else {}
        inner = inner[name]
    inner[last] = inner[last] | node if isinstance(node, dict) and isinstance(inner.get(last), dict) else node
    return cfg


@pytest.fixture(scope="module")
def right() -> dict[str, Any]:
    """The config of a run on points as it is saved, in which nothing is refused."""
    composer = Composer("config", [conf_folder()], ["hydra.run.dir=${run_dir}"])
    cfg, mistakes = composer.config(["experiment=points", "run_dir=run", "trainer=cpu", "logger=none", PRECISION])
    assert not mistakes
    plain: Any = OmegaConf.to_container(cfg, resolve=False)
    del plain["hydra"]
    config.check(OmegaConf.create(plain), SETTINGS)
    return dict(config.redact(OmegaConf.create(plain)))


def named(attack: Attack) -> str:
    return f"{attack.key}{'' if attack.at.startswith('[') or not attack.at else '.'}{attack.at}"


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
@pytest.mark.slow
@pytest.mark.parametrize("command", ["sample", "export", "report"])
def test_a_run_of_somebody_else(
    trap: Trap, right: dict[str, Any], capsys: pytest.CaptureFixture[str], command: str, attack: Attack
) -> None:
    if attack.key == "allow_targets":
        pytest.skip("a key that nothing reads")
    run = trap.folder / "given"
    (run / "config.yaml").write_text(yaml.safe_dump(placed(right, attack.key, trap.set(attack.node))))
    own = [] if command == "report" else [f"out={trap.folder / 'drawn'}"]
    assert launch(command, [f"run={run}", *own]) == 2
    assert f"  {named(attack)}" in capsys.readouterr().err
    assert not (trap.folder / "drawn").exists()
    assert {file.name for file in run.iterdir()} == {"config.yaml"}


@pytest.mark.slow
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_the_run_of_somebody_else_as_the_base(
    trap: Trap, right: dict[str, Any], capsys: pytest.CaptureFixture[str], attack: Attack
) -> None:
    if attack.key == "allow_targets":
        pytest.skip("a key that nothing reads")
    run = trap.folder / "given"
    description = {"config": placed(right, attack.key, trap.set(attack.node)), "shape": [2]}
    save_weights(run / "weights.safetensors", {"x": torch.zeros(1)}, description)
    assert launch("train", [f"pretrained={run}", "experiment=points", "run_dir=x", "logger=none"]) == 2
    assert f"  {named(attack)}" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("attack", [*ATTACKS.values(), *RESOLVED.values()], ids=[*ATTACKS, *RESOLVED])
def test_a_folder_of_yaml_files_of_somebody_else(
    trap: Trap, capsys: pytest.CaptureFixture[str], attack: Attack
) -> None:
    folder = trap.folder / "given"
    (folder / "experiment").mkdir()
    recipe = {"defaults": ["points"], **placed({}, attack.key, trap.set(attack.node))}
    (folder / "experiment" / "gift.yaml").write_text("# @package _global_\n" + yaml.safe_dump(recipe))
    arguments = ["experiment=gift", "trainer=cpu", "trainer.max_steps=1", "logger=none"]
    arguments += [] if attack.key == "run_dir" else ["run_dir=run"]
    assert launch("train", ["--config-dir", str(folder), *arguments]) == 2
    assert f"  {named(attack)}" in capsys.readouterr().err


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_whoever_builds_a_part_checks_it(trap: Trap, right: dict[str, Any], attack: Attack) -> None:
    cfg = OmegaConf.create(placed(right, attack.key, trap.set(attack.node)))
    node: Callable[[], Any] = lambda: cfg[attack.key.split(".")[0]]
    if OmegaConf.is_config(node()) and attack.key != "allow_targets":
        with pytest.raises(config.ConfigError):
            config.build(node())
