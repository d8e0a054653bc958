"""A reader that ends first changes neither the exit code nor what is done after its end."""

from __future__ import annotations

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
    Path({done!r}).touch()
sys.exit(75)
"""


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_closed_stream_ends_nothing(tmp_path: Path, stream: str) -> None:
    code = CODE.format(stream=stream, done=str(tmp_path / "done"))
    process = subprocess.Popen([sys.executable, "-c", code], **{stream: subprocess.PIPE}, text=True)
    reader = getattr(process, stream)
    assert reader.readline() == "0\n"
    reader.close()
    assert process.wait(60) == 75
    assert (tmp_path / "done").exists()
