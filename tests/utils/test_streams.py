"""A reader that ends first changes neither the exit code nor what is done after its end."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import sys
from pathlib import Path
from diffusion_train.utils.streams import unbroken_streams
with unbroken_streams():
    for number in range(100_000):
        print(number, file=sys.{stream})
        sys.{stream}.writelines(["a line\\n", "and another\\n"])
    Path({done!r}).touch()
sys.exit(75)
"""

MAIN = "import sys; from diffusion_train.program import main; sys.exit(main())"


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_closed_stream_ends_nothing(tmp_path: Path, stream: str) -> None:
    code = CODE.format(stream=stream, done=str(tmp_path / "done"))
    process = subprocess.Popen([sys.executable, "-c", code], **{stream: subprocess.PIPE}, text=True)
    reader = getattr(process, stream)
    assert reader.readline() == "0\n"
    reader.close()
    assert process.wait(60) == 75
    assert (tmp_path / "done").exists()


@pytest.mark.parametrize("redirection", [">&-", ">&- 2>&-", "> /dev/full"])
@pytest.mark.parametrize("words", [["--version"], ["train", "--help"], ["train", "--cfg", "job"]], ids=str)
def test_a_stream_that_cannot_be_written_changes_no_exit_code(words: list[str], redirection: str) -> None:
    """It is closed from the start, or fails as a disk or a terminal does."""
    command = f'"{sys.executable}" -c "{MAIN}" {" ".join(words)} {redirection}'
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["train", "--cfg", "job"]], ids=str)
def test_help_may_be_cut_short(words: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-c", MAIN, *words]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_terminal_that_is_gone_is_no_disk_that_fails(tmp_path: Path) -> None:
    """As after the end of an ssh session."""
    ours, theirs = pty.openpty()
    code = "import sys; sys.stdin.readline()" + CODE.format(stream="stdout", done=str(tmp_path / "done"))
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=theirs, start_new_session=True, text=True
    )
    os.close(theirs)
    os.close(ours)
    process.communicate("\n", timeout=60)
    assert process.returncode == 75
    assert (tmp_path / "done").exists()
