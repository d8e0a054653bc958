"""All mistakes of a command line are reported at once, by their right names; right ones compose as Hydra does."""

from __future__ import annotations

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf, open_dict

from diffusion_train.config.command_line.arguments import last_of_each_key
from diffusion_train.config.command_line.compose import Composer
from diffusion_train.config.mistakes import ConfigError, did_you_mean


@pytest.fixture
def mistakes_in(conf):
    def mistakes_in(*arguments: str) -> list[str]:
        return [str(mistake) for mistake in Composer("config", [conf]).config(arguments)[1]]

    return mistakes_in


MISTAKES = {
    "network=mpl": "no option 'mpl'; did you mean mlp? options: mlp, unet",
    "network=null": "leave it out with '~network'",
    "netwrk=mlp": "did you mean network?",
    "grid=karras": "sampler/grid?",
    "sampler.num_step=3": "did you mean sampler.num_steps?",
    "max_steps=3": "did you mean trainer.max_steps?",
    "sampler.grid.rho=3": "only sampler/grid=karras has this key; write sampler/grid=karras sampler.grid.rho=3",
    "brand_new=3": "leave it out",
    "trainer.max_steps=abc": "'trainer.max_steps' must be a whole number, got 'abc'",
    "trainer.max_steps=1e3": "write trainer.max_steps=1000",
    "seed=true": "must be a whole number",
    "rate=fast": "must be a number",
    "fast=1": "must be true or false",
    "trainer=3": "its keys: trainer.max_steps, trainer.log_every_n_steps",
    "sampler.grid=karras": "sampler/grid=karras",
    "shards=x-{0..9}.tar": "write \"shards='x-{0..9}.tar'\"",
    "shards=http://a/b?c=d": "write \"shards='http://a/b?c=d'\"",
    "shards=[x-{0..9}.tar,y.tar]": "write \"shards=['x-{0..9}.tar','y.tar']\"",
    "seed": "write seed=<value>",
    "+seed=3": "already",
    "~sed": "sed",
    "extra=lnog": "did you mean long?",
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory, write, files):
    """Mistake by argument; each line holds the first, second, ... argument of every key."""
    conf = write(tmp_path_factory.mktemp("answers"), files)
    lines: list[dict[str, str]] = []
    for argument in MISTAKES:
        key = argument.strip("+~").partition("=")[0]
        line = next((line for line in lines if key not in line), None)
        if line is None:
            lines.append(line := {})
        line[key] = argument
    found = [m for line in lines for m in Composer("config", [conf]).config([*line.values(), "name=right"])[1]]
    return {mistake.where: str(mistake) for mistake in found}


@pytest.mark.parametrize("argument", MISTAKES)
def test_a_mistake_is_told_with_its_remedy(answers, argument):
    assert MISTAKES[argument] in answers[argument]


def test_only_mistakes_are_told(answers):
    assert set(answers) == set(MISTAKES)


def test_all_mistakes_are_told_at_once_and_what_is_right_is_not(mistakes_in):
    arguments = ["seed=x", "network=unt", "name=ok", "trainer.max_step=1", "rate=1", "shards=a=b", "fast=yes please"]
    mistakes = mistakes_in(*arguments)
    assert sorted(m.split("\n")[0] for m in mistakes) == sorted(a for a in arguments if a not in ("name=ok", "rate=1"))


def test_keys_of_a_part_that_was_not_found_are_no_further_mistakes(mistakes_in):
    assert len(mistakes_in("network=unt", "network.channels=3")) == 1


def test_of_a_key_given_twice_the_last_one_counts():
    given = ["seed=1", "network=unet", "+new=1", "seed=2", "network=mlp", "broken=[", "seed=3"]
    assert last_of_each_key(given) == ("+new=1", "network=mlp", "broken=[", "seed=3")


ACCEPTED_BY_HYDRA = [
    ["seed=null", "rate=2", "name=3", "shards=[a.tar,b.tar]", "+new.key=3", "extra=long", "hydra.verbose=true"],
    ["seed=${trainer.max_steps}", "shards='x-{0..9}.tar'", "name=a b", "network=unet", "~extra"],
    ["++seed=3", "~shards", "trainer={max_steps:3}"],
    ["+a.b=1", "a.b=2", "sampler/grid=karras", "sampler.grid.rho=3", "extra=long", "trainer.max_steps=7"],
]


@pytest.mark.parametrize("line", ACCEPTED_BY_HYDRA)
def test_what_hydra_accepts_composes_as_in_hydra(conf, line):
    cfg, mistakes = Composer("config", [conf]).config(line)
    assert mistakes == []
    with initialize_config_dir(str(conf), version_base="1.3"):
        of_hydra = compose("config", line)
    with open_dict(cfg):
        cfg.pop("hydra")
    assert OmegaConf.to_container(cfg) == OmegaConf.to_container(of_hydra)


def test_a_dictionary_adds_no_key(mistakes_in):
    (mistake,) = mistakes_in("trainer={max_step: 3}")
    assert "max_step" in mistake


def test_the_config_is_that_of_the_right_arguments(conf):
    cfg, mistakes = Composer("config", [conf]).config(
        ["network=unet", "network.channels=16", "extra=long", "sampler/grid=karras", "seed=x", "nmae=y"]
    )
    assert len(mistakes) == 2
    assert cfg.network == {"_target_": "diffusion_train.network.unet.UNet", "channels": 16}
    assert cfg.trainer.max_steps == 1000
    assert cfg.sampler.grid.rho == 7.0
    assert cfg.name == "run"


def test_the_type_of_a_value_is_that_of_the_chosen_part(conf, write):
    write(conf, {"network/named.yaml": "width: wide\n"})
    mistakes_in = Composer("config", [conf]).config
    assert mistakes_in(["network=named", "network.width=narrow"])[1] == []
    assert len(mistakes_in(["network.width=narrow"])[1]) == 1


def test_values_that_must_be_given_and_references_that_lead_nowhere(conf, write):
    write(conf, {"network/odd.yaml": "width: ???\ndepth: ${nowhere}\nlist: [1, '${seed}', '${gone.away}']\n"})
    mistakes = [str(m) for m in Composer("config", [conf]).config(["network=odd"])[1]]
    assert [m.split("\n")[0] for m in mistakes] == ["network.width", "network.depth", "network.list[2]"]
    assert "add network.width=..." in mistakes[0]
    assert "nowhere" in mistakes[1]
    assert "gone.away" in mistakes[2]


def test_the_environment_is_closed_to_configs(conf, write, monkeypatch):
    names = ["WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "SOME_URL"]
    for name in names:
        monkeypatch.setenv(name, "canary")
    write(conf, {"network/leaky.yaml": "\n".join(f"{name}: '${{oc.env:{name}}}'" for name in names)})
    mistakes = Composer("config", [conf]).config(["network=leaky"])[1]
    assert [mistake.where for mistake in mistakes] == [f"network.{name}" for name in names]
    assert "canary" not in str(mistakes)


def test_the_environment_tells_where_the_program_runs(conf, write, monkeypatch):
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    write(conf, {"network/here.yaml": "folder: ${oc.env:SCRATCH}/x\n"})
    cfg, mistakes = Composer("config", [conf]).config(["network=here"])
    assert (cfg.network.folder, mistakes) == ("/scratch/me/x", [])


def test_a_users_folder_adds_groups_and_options(conf, tmp_path, write):
    user = {"network/mine.yaml": "width: 3\n", "experiment/try.yaml": "# @package _global_\nname: tried\n"}
    folder = write(tmp_path / "my conf", user)
    cfg, mistakes = Composer("config", [conf, folder]).config(["network=mine", "+experiment=try"])
    assert (cfg.network, cfg.name, mistakes) == ({"width": 3}, "tried", [])
    (mistake,) = Composer("config", [conf, folder]).config(["network=mien"])[1]
    assert "mine" in mistake.remedy


def test_broken_yaml_files_are_told_as_such(conf, write):
    write(conf, {"config.yaml": "defaults: [nothing_here]\n"})
    with pytest.raises(ConfigError, match="nothing_here"):
        Composer("config", [conf]).config([])


HYDRA = {
    "callback": "callbacks: {x: {_target_: webdataset.gopen, url: 'pipe:touch canary'}}",
    "log handler": "job_logging: {handlers: {x: {(): os.system, command: touch canary}}}",
    "imported log stream": "job_logging: {handlers: {x: {class: logging.StreamHandler, stream: 'ext://evil.stream'}}}",
    "log file": "job_logging: {handlers: {x: {class: logging.FileHandler, filename: canary}}}",
    "hydra's log file": "hydra_logging: {handlers: {x: {class: logging.FileHandler, filename: canary}}}",
    "launcher": "launcher: {_target_: subprocess.run}",
    "sweeper": "sweeper: {_target_: evil.Sweeper}",
    "environment": "job: {env_set: {LD_PRELOAD: /tmp/x.so}}",
    "working directory": "job: {chdir: true}",
    "output folder": "run: {dir: /tmp}",
    "verbose": "verbose: true",
    "overrides": "overrides: {task: [hydra.verbose=true], hydra: [hydra.verbose=true]}",
}


@pytest.mark.parametrize("hostile", HYDRA.values(), ids=HYDRA)
@pytest.mark.parametrize("owner", ["an option", "the user's option"])
def test_config_files_set_nothing_in_hydras_own_node(conf, tmp_path, write, monkeypatch, hostile, owner):
    monkeypatch.chdir(tmp_path)
    user = write(tmp_path / "user", {"network/mine.yaml": "width: 1\n"})
    folder = user if owner == "the user's option" else conf
    write(folder, {"extra/evil.yaml": f"# @package _global_\nhydra: {{{hostile}}}\n"})
    mistakes = Composer("config", [conf, user]).config(["extra=evil"])[1]
    assert mistakes
    assert all(mistake.where.startswith("hydra.") for mistake in mistakes)
    assert not (tmp_path / "canary").exists()


def test_a_users_main_config_cannot_name_modules_to_search(conf, tmp_path, write, monkeypatch):
    (tmp_path / "evil_config_module").mkdir()
    (tmp_path / "evil_config_module" / "__init__.py").write_text("open('canary', 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    user = write(tmp_path / "user", {"main.yaml": "hydra: {searchpath: ['pkg://evil_config_module']}\nname: x\n"})
    with pytest.raises(ConfigError, match=r"hydra\n +cannot be set in .*main.yaml"):
        Composer("main", [conf, user]).config([])
    assert not (tmp_path / "canary").exists()


def test_a_users_logging_is_no_choice_of_a_config_file(conf, tmp_path, write):
    handlers = "handlers: {x: {class: logging.FileHandler, filename: canary}}\n"
    files = {"hydra/job_logging/loud.yaml": handlers, "hydra/launcher/basic.yaml": "_target_: os.system\n"}
    files["extra/evil.yaml"] = "# @package _global_\ndefaults: [override /hydra/job_logging: loud]\n"
    user = write(tmp_path / "user", files)
    mistakes = Composer("config", [conf, user]).config(["extra=evil"])[1]
    assert {mistake.where.rpartition(".")[0] for mistake in mistakes} >= {"hydra.job_logging.handlers.x"}


def test_the_command_line_may_set_what_hydra_does(conf):
    mistakes_of = lambda *line: Composer("config", [conf]).config(line)[1]
    assert mistakes_of("hydra.verbose=true", "+hydra.job.env_set.A=b", "hydra/job_logging=default") == []
    [mistake] = mistakes_of("+hydra.callbacks.x._target_=os.system")
    assert (mistake.where, mistake.problem[:11]) == ("hydra.callbacks.x._target_", "'os.system'")


@pytest.mark.parametrize(
    ("word", "answer"),
    [
        ("data.batchsize", "did you mean data.batch_size?"),
        ("batch_size", "did you mean data.batch_size?"),
        ("trainer.max_step", "did you mean trainer.max_steps?"),
        ("zebra", ""),
    ],
)
def test_did_you_mean(word, answer):
    assert did_you_mean(word, ["data.batch_size", "trainer.max_steps", "trainer.max_time", "network"]) == answer
