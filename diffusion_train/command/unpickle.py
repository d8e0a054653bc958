"""Take the tensors out of a pickled checkpoint (.ckpt, .bin, .pt) into a .safetensors file.

No code of the file is run: whatever it asks for besides tensors is left out, and named. Whether you trust whoever made the
weights is still yours to say.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

SUMMARY = "take the tensors out of a .ckpt, .bin or .pt into a .safetensors file"
EXAMPLE = """\
diffusion-train unpickle path=model.ckpt out=model.safetensors
diffusion-train unpickle path=sd/text_encoder/pytorch_model.bin out=sd/text_encoder/model.safetensors"""

READ = ("path", "out")


def run(cfg: Any) -> int:
    from diffusion_train import config
    from diffusion_train.command.exit import Exit
    from diffusion_train.utils.cache import atomic_write

    config.check(cfg, read=READ)
    path, out = Path(cfg.path).expanduser(), Path(cfg.out).expanduser()
    if out.suffix != ".safetensors":
        raise ValueError(f"out={out}: name a file that ends in .safetensors")
    if out.exists():
        raise ValueError(f"out={out}: is there already")
    from safetensors.torch import save_file

    from diffusion_train.pretrained.pickles import unpickled

    tensors, left_out = unpickled(path)
    with atomic_write(out) as file:
        save_file(tensors, file.name, {"format": "pt"})
    size = sum(value.nbytes for value in tensors.values())
    print(f"{len(tensors):,} tensors of {size / 1e6:,.1f} MB in {out}")
    if left_out:
        print(f"left out, and not run: {', '.join(sorted(left_out))}")
    return Exit.DONE
