"""Read the prompts of a setting: a list, or a text file with one prompt per line."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from diffusion_train.utils.text import encoding_of


def read_prompts(prompts: str | Iterable[object]) -> list[str]:
    """Return the prompts of a list or file. Raises ValueError if the file is missing, empty or not UTF-8."""
    if not isinstance(prompts, str):
        return [str(prompt) for prompt in prompts]
    file = Path(prompts).expanduser()
    if not file.is_file():
        raise ValueError(f"""prompts={file}: no such file; give one, or a list: prompts='["{file}"]'""")
    try:
        data = file.read_bytes()
        lines = [line.strip() for line in data.decode(encoding_of(data[:4])).splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"prompts={file} is not UTF-8 ({error}); save it as UTF-8") from error
    if not lines:
        raise ValueError(f"prompts={file} has no prompt; write one per line")
    return lines
