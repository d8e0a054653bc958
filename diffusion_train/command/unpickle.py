"""Copy the tensors of a pickled checkpoint (.ckpt, .bin, .pt) into a .safetensors file.

No code in the file is run: everything that is not a tensor is left out and listed. Whether you trust the author of the
weights is still your decision.
"""

from __future__ import annotations

import sys
from pathlib import Path

from omegaconf import DictConfig
from safetensors import SafetensorError
from safetensors.torch import save_file

from diffusion_train import config
from diffusion_train.pretrained.pickles import unpickled
from diffusion_train.utils.exit_code import Exit
from diffusion_train.utils.files import atomic_file

SUMMARY = "copy the tensors of a .ckpt, .bin or .pt into a .safetensors file"
EXAMPLE = """\
diffusion-train unpickle path=model.ckpt out=model.safetensors
diffusion-train unpickle path=sd/text_encoder/pytorch_model.bin out=sd/text_encoder/model.safetensors"""


def run(cfg: DictConfig) -> int:
    """Write the tensors of `cfg.path` to `cfg.out` and list what is left out; return the exit code."""
    config.check(cfg, read=("path", "out"))
    path, out = Path(cfg.path).expanduser(), Path(cfg.out).expanduser()
    check_files(path, out)
    tensors, left_out = unpickled(path)
    try:
        with atomic_file(out) as file:
            save_file(tensors, file.name, {"format": "pt"})
    except (OSError, SafetensorError) as error:
        print(f"out={out}: cannot be written ({error})", file=sys.stderr)
        return Exit.STORAGE
    size = sum(value.nbytes for value in tensors.values())
    print(f"{len(tensors):,} tensors of {size / 1e6:,.1f} MB in {out}")
    if left_out:
        print(f"left out, and not executed: {', '.join(sorted(left_out))}")
    return Exit.DONE


def check_files(path: Path, out: Path) -> None:
    """Raises ConfigError if `path` is not a file, or if `out` exists or has another suffix than .safetensors."""
    mistakes = []
    if not path.is_file():
        mistakes.append(config.Mistake(f"path={path}", "no such file", "give a .ckpt, .bin, .pt or .pth"))
    if out.suffix != ".safetensors":
        remedy = f"out={out.with_suffix('.safetensors')}"
        mistakes.append(config.Mistake(f"out={out}", "must end in .safetensors", remedy))
    elif out.exists():
        mistakes.append(config.Mistake(f"out={out}", "exists already", "delete it, or give another name"))
    config.raise_all(mistakes)
