"""Files and folders appear whole or not at all; a file is hashed once as long as it stays the same."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time

import pytest

from diffusion_train.utils.files import (
    atomic_file,
    atomic_folder,
    check_sha256,
    file_sha256,
    publish,
    remove_strays,
    sha256_of_files,
)


@pytest.fixture(autouse=True)
def _private_cache(private_cache):
    """Every test here."""


def settled(path, content: bytes, age: float = 60):
    path.write_bytes(content)
    then = time.time_ns() - int(age * 1e9)
    os.utime(path, ns=(then, then))
    return path


def test_it_is_the_files_own(tmp_path):
    assert file_sha256(settled(tmp_path / "a", b"abc")) == hashlib.sha256(b"abc").hexdigest()


def test_a_file_is_read_once_and_again_when_it_changed(tmp_path):
    file = settled(tmp_path / "a", b"abc")
    first, stat = file_sha256(file), file.stat()
    file.write_bytes(b"abd")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert file_sha256(file) == first  # size and time are the same: not read again
    settled(file, b"abd", age=30)
    assert file_sha256(file) == hashlib.sha256(b"abd").hexdigest()


def test_a_file_that_may_still_be_written_is_not_kept(tmp_path):
    file = settled(tmp_path / "a", b"abc", age=0)
    stat = file.stat()
    file_sha256(file)
    file.write_bytes(b"abd")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert file_sha256(file) == hashlib.sha256(b"abd").hexdigest()


def test_a_damaged_cache_is_passed_over(tmp_path):
    file = settled(tmp_path / "a", b"abc")
    file_sha256(file)
    for kept in (tmp_path / "cache").rglob("*.json"):
        kept.write_text("[1")
    assert file_sha256(file) == hashlib.sha256(b"abc").hexdigest()


def test_of_several_files_names_and_contents_count_but_not_places(tmp_path):
    (tmp_path / "there").mkdir()
    here = {"x": settled(tmp_path / "a", b"1"), "y": settled(tmp_path / "b", b"2")}
    there = {"y": settled(tmp_path / "there" / "b", b"2"), "x": settled(tmp_path / "there" / "a", b"1")}
    assert sha256_of_files(here) == sha256_of_files(there)
    assert sha256_of_files(here) != sha256_of_files({"x": here["x"], "z": here["y"]})


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_appears_whole(tmp_path):
    out = tmp_path / "new" / "out"
    with atomic_folder(out) as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "a").write_text("1")
        assert folder.parent == out.parent
        assert not out.exists()
    assert (out / "inner" / "a").read_text() == "1"
    assert names(out.parent) == ["out"]


def test_permissions_are_those_of_any_new_folder_and_file(tmp_path):
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "a").touch()
    with atomic_folder(tmp_path / "out"):
        pass
    with atomic_file(tmp_path / "out" / "a") as file:
        os.chmod(file.name, 0o600)  # as safetensors does
    with atomic_folder(tmp_path / "both") as folder:
        (folder / "inner").mkdir()
        for file in (folder / "a", folder / "inner" / "a"):
            file.touch(0o600)
    for made, plain in (("out", "plain"), ("out/a", "plain/a"), ("both/a", "plain/a"), ("both/inner/a", "plain/a")):
        assert (tmp_path / made).stat().st_mode == (tmp_path / plain).stat().st_mode


@pytest.mark.parametrize("atomic", [atomic_file, atomic_folder])
def test_an_error_leaves_nothing(atomic, tmp_path):
    with pytest.raises(KeyboardInterrupt), atomic(tmp_path / "out"):
        raise KeyboardInterrupt
    assert names(tmp_path) == []


def test_of_two_that_complete_a_folder_the_first_stays(tmp_path):
    out = tmp_path / "out"
    with atomic_folder(out) as second:
        (second / "a").write_text("second")
        with atomic_folder(out) as first:
            (first / "a").write_text("first")
    assert (out / "a").read_text() == "first"
    assert names(tmp_path) == ["out"]


def test_an_empty_folder_is_replaced_and_a_file_is_not(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    with atomic_folder(tmp_path / "empty") as folder:
        (folder / "a").touch()
    assert names(tmp_path / "empty") == ["a"]
    with pytest.raises(FileExistsError, match="file"), atomic_folder(tmp_path / "file"):
        pass
    with pytest.raises(FileExistsError, match="empty"):
        publish(tmp_path / "file", tmp_path / "empty")
    assert names(tmp_path) == ["empty", "file"]


def test_all_of_a_folder_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("replace"), replace(a, b)))
    with atomic_folder(tmp_path / "out") as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "a").touch()
    assert set(calls[:3]) == {str(folder / "inner" / "a"), str(folder / "inner"), str(folder)}
    assert calls[3:] == ["replace", str(tmp_path)]


def test_what_a_killed_process_left_is_removed(tmp_path):
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom diffusion_train.utils.files import *\n"
        "with atomic_folder(Path(sys.argv[1]) / 'out') as folder, atomic_file(Path(sys.argv[1]) / 'file') as file:\n"
        "    file.write(b'half')\n    (folder / 'a').write_text('half')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    (tmp_path / "whole").touch()
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == -signal.SIGKILL
    assert len(names(tmp_path)) == 3
    remove_strays(tmp_path)
    assert names(tmp_path) == ["whole"]


def test_a_file_that_is_not_the_known_one_is_refused(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"weights.pth must have SHA-256 .*, got .*; reinstall some-package==1.0"):
        check_sha256(path, "0" * 64, "some-package==1.0")
