"""A file is hashed once as long as it stays the same, and again once it has changed."""

from __future__ import annotations

import hashlib
import os
import time

import pytest

from diffusion_train.utils.files import file_sha256, sha256_of_files


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
