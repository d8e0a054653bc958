"""Commands are files; help and mistakes are told without torch; every end has its exit code."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from diffusion_train.command import cli
from diffusion_train.command.cli import guarded
from diffusion_train.config.folders import conf_folder, groups
from diffusion_train.utils.exit_code import Exit

ROOT = Path(__file__).resolve().parents[2]


def python(*arguments):
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_overview_lists_every_command_with_its_summary(capsys):
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    for command in cli.commands().values():
        assert f"{command.name} " in out
        assert command.summary in out
    assert {"train", "sample"} <= set(cli.commands())


def test_an_unknown_command_gets_a_hint(capsys):
    assert cli.main(["trian"]) == Exit.WRONG
    assert "did you mean train?" in capsys.readouterr().err


def test_a_new_command_is_one_file(tmp_path):
    file = tmp_path / "polish.py"
    file.write_text('"""Polish it."""\nimport nothing_there\nEXAMPLE = "polish run=x"\ndef run(cfg): ...\n')
    assert cli._read(file) == cli.Command("polish", "Polish it.", "polish run=x", "Polish it.")
    file.write_text("def helper(): ...\n")
    assert cli._read(file) is None


@pytest.mark.parametrize("name", ["train", "sample"])
def test_help_shows_an_example_and_every_group_of_the_command(capsys, name):
    assert cli.main([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"{name}.py" in out.split("Example:")[1].split("\n")[1]
    assert "  source: " not in out
    for group, options in groups([conf_folder()]).items():
        if group == "source":  # prepare's
            continue
        assert f"{group}: {', '.join(options)}" in out


def test_help_tells_what_settings_mean(capsys):
    assert cli.main(["train", "--help"]) == 0
    assert "  clip_norm=1.0          null: no clipping\n" in capsys.readouterr().out


def test_three_mistakes_are_named_at_once_and_soon():
    """One process for the whole way; the time is loose enough for a busy machine,
    and torch alone would take as long.
    """
    code = (
        "import sys; from diffusion_train.command.cli import launch; "
        "code = launch('train', sys.argv[1:]); "
        "assert not {'torch', 'pytorch_lightning', 'numpy', 'webdataset'} & set(sys.modules); sys.exit(code)"
    )
    arguments = ["data.batchsize=8", "network=unett", "trainer.max_step=3"]
    start = time.monotonic()
    done = python("-c", code, *arguments)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    for words in [*arguments, "data.batch_size", "did you mean unet?", "trainer.max_steps"]:
        assert words in done.stderr
    assert time.monotonic() - start < 15


@pytest.mark.parametrize("script", ["train", "sample"])
def test_scripts_reach_their_command(script):
    done = python(f"{script}.py", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{script}: ")


def test_a_users_mistake_ends_with_2_and_no_traceback(capsys, monkeypatch):
    monkeypatch.delenv("DIFFUSION_TRAIN_DEBUG", raising=False)

    def body():
        raise ValueError("give another url than https://me:CANARY@host")

    assert guarded(body) == 2
    err = capsys.readouterr().err
    assert "give another url" in err
    assert "test_cli.py" in err
    assert "Traceback" not in err
    assert "CANARY" not in err


def test_other_ends_pass_through():
    assert guarded(lambda: Exit.STOPPED) == 75
    with pytest.raises(KeyError):
        guarded(lambda: {}["bug"])
    assert guarded(lambda: (_ for _ in ()).throw(KeyboardInterrupt())) == 130


def _needs(package):
    raise ModuleNotFoundError(f"No module named {package!r}", name=package)


def test_a_package_of_an_extra_that_is_missing_is_told_with_what_installs_it(capsys):
    assert guarded(lambda: _needs("peft")) == Exit.WRONG
    assert 'peft is not installed; run: pip install "diffusion_train[pretrained]"' in capsys.readouterr().err
    with pytest.raises(ModuleNotFoundError):
        guarded(lambda: _needs("diffusion_train.mistyped"))
