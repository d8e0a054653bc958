"""No secret outlives redaction, and nothing else is lost."""

from __future__ import annotations

import inspect

import pytest
from omegaconf import OmegaConf

from diffusion_train import config
from diffusion_train.config.folders import conf_folder, read_yaml
from diffusion_train.config.targets import locate, targets
from diffusion_train.utils.redact import environment_secrets, is_secret, redact_text

SECRET = "CANARY0123456789abcdef"


def test_secrets_at_any_depth_are_hidden_by_name_and_by_form():
    """tests/utils/test_redact.py goes through the names and forms."""
    assert config.redact({"a": [{"hub_token": SECRET, "b": 1}]}) == {"a": [{"hub_token": "***", "b": 1}]}
    assert config.redact({"password": {"inner": SECRET}}) == {"password": {"inner": "***"}}
    assert config.redact({"a": [f"https://h/x?sig={SECRET}"]}) == {"a": ["https://h/x?sig=***"]}


PEM = f"-----BEGIN RSA PRIVATE KEY-----\n{SECRET}\n-----END RSA PRIVATE KEY-----"


@pytest.mark.parametrize(
    "planted",
    [
        {"logger": {"mine": {"pass": SECRET}}},
        {"logger": {"mine": {"key": SECRET}}},
        {"logger": {"mine": {"sig": SECRET, "signature": SECRET}}},
        {"logger": {"mine": {"password": 20251130}}},
        {"logger": {"mine": {"db_pass": 20251130.5, "pin": 20251130}}},
        {"settings": [{"name": "password", "value": SECRET}, {"key": "api_key", "value": SECRET}]},
        {"settings": {"name": "passwd", "value": 20251130}},
        {"mine": {"token": 20251130, "db_password_prod": 20251130}},
        {"mine": {f"hf_{SECRET}": 1}},
        {"mine": {f"log in with {SECRET}-of-the-environment": 1}},
        {"pages": [9202511309, {9202511309: "a"}]},
        {"password": {"inner": {"deep": [20251130, SECRET]}}},
        {"note": PEM},
        {"note": f"before {PEM} after"},
        {"note": PEM.partition("-----END")[0]},
        {"note": f"log in with glpat-{SECRET}"},
        {"note": f"github_pat_{SECRET}", "other": f"xoxb-{SECRET}", "more": f"AIza{SECRET}{SECRET}"},
        {"note": f"eyJhbGciOiJI.{SECRET}.{SECRET}"},
        {"prompts": ["a cat", f"the password of the shop: {SECRET}-of-the-environment"]},
    ],
)
def test_planted_secrets_are_found_by_no_reader(planted, monkeypatch):
    monkeypatch.setenv("ENCRYPTION_KEY", f"{SECRET}-of-the-environment")
    monkeypatch.setenv("DB_PASSWORD", "9202511309")
    environment_secrets.cache_clear()
    text = repr(config.redact(planted))
    environment_secrets.cache_clear()
    assert SECRET not in text
    assert "20251130" not in text


def test_settings_that_the_package_declares_stay():
    declared = {
        "data": {"captions": {"source": {"key": "file_name", "path": "captions.csv"}}},
        "conditioner": {"key": "low_res"},
        "source": {"columns": {"key": "id", "caption": "text"}},
    }
    assert config.redact(declared) == declared


CONF = conf_folder()


@pytest.mark.parametrize("file", sorted(CONF.rglob("*.yaml")), ids=lambda file: str(file.relative_to(CONF)))
def test_no_setting_of_conf_is_hidden(file):
    """Also not by the name of a class's further settings, and not as text."""
    text = file.read_text("utf-8")
    nodes = read_yaml(text)
    names = [] if text.startswith("# @package _global_") else file.parent.relative_to(CONF).parts
    for name in reversed(names):
        nodes = {name: nodes}
    filled = _with_values(nodes)
    assert config.redact(filled) == filled
    for key, value in config.settings(filled, "").items():
        assert redact_text(f"{key}={value}") == f"{key}={value}"
    for path, target in targets(filled):
        for name in inspect.signature(locate(str(target))).parameters:
            assert not is_secret(name, declared=name == "key"), f"{path}.{name}"


def _with_values(node):
    """Give settings that are null, and numbers, values that would be hidden under the name of a secret."""
    if isinstance(node, dict):
        return {key: _with_values(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_with_values(value) for value in node]
    return "abcdef" if node is None else 123456 if type(node) is int else node


@pytest.mark.parametrize(
    "plain",
    [
        {"num_tokens": 77, "max_tokens": 5, "tokenizer": "clip", "token_dim": 8, "pad_token": "<pad>"},
        {"token": 3, "secret": None, "password": ""},
        {"url": "https://host/a@b/x.tar?page=3", "path": "/home/me@work/x", "keys": ["a", "b"]},
        {"prompt": "a token of love, secretly = passwords", "author": "x", "monkey": "y", "keyboard": "z"},
    ],
)
def test_what_is_no_secret_stays(plain):
    assert config.redact(plain) == plain


def test_a_config_becomes_plain_and_resolved():
    cfg = OmegaConf.create({"a": 1, "b": {"c": "${a}", "hub_token": SECRET}, "d": ["${a}"]})
    assert config.redact(cfg) == {"a": 1, "b": {"c": 1, "hub_token": "***"}, "d": [1]}


def test_a_saved_config_loads_as_it_was_without_secrets(tmp_path):
    cfg = OmegaConf.create({"name": "x", "n": "${name}", "text": r"\${odd} {x} = 'y'", "rate": 1e-4, "api_key": SECRET})
    path = tmp_path / "new folder" / "config.yaml"
    config.save_config(cfg, path)
    loaded = config.load_run_config(path.parent)
    assert OmegaConf.to_container(loaded, resolve=True) == config.redact(cfg)
    assert SECRET not in path.read_text()
    assert [file.name for file in path.parent.iterdir()] == ["config.yaml"]


def test_mistakes_show_no_secrets():
    error = config.ConfigError([config.Mistake(f"logger.wandb.apikey={SECRET}", "no", f"write x_token={SECRET}")])
    assert SECRET not in str(error)


def test_the_folders_that_a_shell_names_stay(monkeypatch):
    monkeypatch.setenv("PWD", "/data/projects")
    monkeypatch.setenv("OLDPWD", "/data/archive")
    environment_secrets.cache_clear()
    kept = config.redact({"run_dir": "/data/projects/run", "shards": "/data/archive/a.tar"})
    environment_secrets.cache_clear()
    assert kept == {"run_dir": "/data/projects/run", "shards": "/data/archive/a.tar"}
