"""Flips single bits of a checkpoint or of weights: each flip must be found, or change nothing that is loaded.

python fuzz/flipped_bits.py runs/points/<date_time>/checkpoints/last.ckpt --num-flips 2000
python fuzz/flipped_bits.py runs/points/<date_time>/weights.safetensors

One bit is flipped in every byte of the zip's directory, or of the header of weights, and in random bytes of the whole
file. It ends with 1 if a flip is missed or raises anything but ValueError.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from diffusion_train.training.checkpoint.checkpoint_file import load
from diffusion_train.training.weights import load_weights

FOUND, HARMLESS = "found", "harmless"


def directory(path: Path) -> range:
    """Return the positions of the bytes that say where and what the contents of a file are."""
    content = path.read_bytes()
    if path.suffix == ".safetensors":
        return range(8 + int.from_bytes(content[:8], "little"))
    return range(content.index(b"PK\1\2"), len(content))


def sweep(path: Path, positions: Iterable[int], rng: random.Random) -> Iterator[tuple[int, str]]:
    """Yield each position with what comes of a flipped bit there, in a copy of the file."""
    read = load_weights if path.suffix == ".safetensors" else load
    whole = _flat(read(path))
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copy(path, folder))
        with copy.open("r+b", buffering=0) as file:
            for position in positions:
                byte = _byte_at(file, position)
                _write_at(file, position, byte ^ (1 << rng.randrange(8)))
                yield position, _outcome(read, copy, whole)
                _write_at(file, position, byte)


def _outcome(read: Any, path: Path, whole: object) -> str:
    try:
        return HARMLESS if _flat(read(path)) == whole else "MISSED"
    except ValueError:
        return FOUND
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001  a panic of a library in Rust is no Exception
        return f"RAISED {type(error).__name__}: {error}"


def _byte_at(file: Any, position: int) -> int:
    file.seek(position)
    return int(file.read(1)[0])


def _write_at(file: Any, position: int, byte: int) -> None:
    file.seek(position)
    file.write(bytes([byte]))


def _flat(node: object) -> object:
    """Return nested containers with the bytes of their tensors, which can be compared."""
    if isinstance(node, Tensor):
        return str(node.dtype), tuple(node.shape), node.reshape(-1).numpy().tobytes()
    if isinstance(node, dict):
        return {key: _flat(value) for key, value in node.items()}
    return [_flat(value) for value in node] if isinstance(node, list | tuple) else node


def main() -> None:
    parser = argparse.ArgumentParser(description="flip bits of a checkpoint or of weights")
    parser.add_argument("path", type=Path)
    parser.add_argument("--num-flips", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    path, rng = options.path.resolve(), random.Random(options.seed)
    size, part = path.stat().st_size, directory(path)
    print(f"{path}: {size:,} bytes, {len(part):,} in its directory")
    positions = {"directory": part, "random": [rng.randrange(size) for _ in range(options.num_flips)]}
    bad = 0
    for name, where in positions.items():
        counts: Counter[str] = Counter()
        for position, outcome in sweep(path, where, rng):
            counts[outcome] += 1
            if outcome not in (FOUND, HARMLESS):
                bad += 1
                print(f"byte {position}: {outcome}")
        print(f"{name}: {len(where):,} flips, {dict(counts)}")
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
