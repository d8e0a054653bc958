"""The vocabulary of CLIP's tokenizer, which single files of Stable Diffusion lack; all versions use the same one."""

from __future__ import annotations

import gzip
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from diffusion_train.pretrained import hub

START, END = "<|startoftext|>", "<|endoftext|>"
_HUB = "openai/clip-vit-large-patch14"
_FILES = ("vocab.json", "merges.txt")
_NUM_MERGES = 49152 - 256 - 2  # CLIP's part of the longer list in OpenCLIP's file
_SETTINGS = {
    "tokenizer_class": "CLIPTokenizer",
    "model_max_length": 77,
    "do_lower_case": True,
    "add_prefix_space": False,
    "errors": "replace",
}


@dataclass(frozen=True)
class Vocabulary:
    """The content of vocab.json and merges.txt."""

    tokens: str
    merges: str

    @staticmethod
    def find(where: str | None, model: Path) -> Vocabulary:
        """Read it from a folder, from its tokenizer/, or from OpenCLIP's bpe_simple_vocab_16e6.txt.gz; None: the hub.

        Raises ValueError that says what `model` needs.
        """
        needed = (
            f"base.tokenizer={where}: pretrained={model} is a single file, which holds no tokenizer; "
            f"give a folder with CLIP's {' and '.join(_FILES)} (tokenizer/ of any Stable Diffusion folder), "
            "or OpenCLIP's bpe_simple_vocab_16e6.txt.gz"
        )
        if where is None:
            try:
                return _of_folder(hub.snapshot(_HUB, "base.tokenizer", _FILES))
            except (ValueError, OSError) as error:
                raise ValueError(f"{needed}; the hub's {_HUB} cannot be reached") from error
        path = Path(where).expanduser()
        for folder in (path, path / "tokenizer"):
            if all((folder / name).is_file() for name in _FILES):
                return _of_folder(folder)
        if path.is_file() and path.name.endswith(".txt.gz"):
            return _of_open_clip(path)
        raise ValueError(needed)

    @property
    def fingerprint(self) -> str:
        """A hash of both texts."""
        return hashlib.sha256(f"{self.tokens}\0{self.merges}".encode()).hexdigest()

    def write(self, folder: Path, pad: str) -> None:
        """Write the files of a CLIPTokenizer with the padding token `pad` to `folder`."""
        special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": pad}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "vocab.json").write_text(self.tokens, "utf-8")
        (folder / "merges.txt").write_text(self.merges, "utf-8")
        (folder / "tokenizer_config.json").write_text(json.dumps(_SETTINGS | special, indent=2), "utf-8")
        (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2), "utf-8")


def _of_folder(folder: Path) -> Vocabulary:
    return Vocabulary(*((folder / name).read_text("utf-8") for name in _FILES))


def _of_open_clip(path: Path) -> Vocabulary:
    """Read OpenCLIP's file, which holds only merges.

    Tokens are numbered in this order: bytes, bytes that end a word, merges, and the two special tokens.
    """
    lines = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")
    merges = lines[1 : _NUM_MERGES + 1]
    symbols = _byte_symbols()
    tokens = [
        *symbols,
        *(f"{symbol}</w>" for symbol in symbols),
        *(line.replace(" ", "") for line in merges),
        START,
        END,
    ]
    numbered = json.dumps({token: number for number, token in enumerate(tokens)}, ensure_ascii=False)
    return Vocabulary(numbered, "\n".join(["#version: 0.2", *merges, ""]))


def _byte_symbols() -> list[str]:
    """Return a visible character for each byte, the printable ones first, in the order of GPT-2."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [chr(byte) for byte in printable] + [chr(0x100 + number) for number in range(256 - len(printable))]
