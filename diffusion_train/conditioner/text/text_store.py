"""A cache of caption embeddings, in memory and in one file per text encoder."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from diffusion_train.conditioner.text.encoder import Embedding
from diffusion_train.utils.files import atomic_file

log = logging.getLogger(__name__)

MAX_BYTES = 4 << 30


class TextStore:
    """Cache from captions to embeddings; above `max_bytes` the least recently used are dropped.

    A file that is damaged or cannot be written only costs time and raises no error: embeddings can be computed again.
    """

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES) -> None:
        self.path, self.max_bytes = path, max_bytes
        self.rows: dict[bytes, Embedding] = {}
        self.num_bytes = 0
        self._saved = True
        if path.exists():
            for digest, row in _read(path).items():
                self._remember(digest, row)

    def get(self, caption: str) -> Embedding | None:
        """Return the embedding and mark it as used last; None if it is not stored."""
        digest = _digest(caption)
        row = self.rows.pop(digest, None)
        if row is not None:
            self.rows[digest] = row  # moved to the end: it is now the last to be dropped
        return row

    def add(self, caption: str, row: Embedding, to_file: bool = True) -> None:
        """Store an embedding in memory; with `to_file`, `save` must write the file because nothing else stores it."""
        self._remember(_digest(caption), row)
        self._saved = self._saved and not to_file

    def _remember(self, digest: bytes, row: Embedding) -> None:
        if digest in self.rows:
            self.num_bytes -= self.rows.pop(digest).num_bytes
        self.rows[digest] = row.copy()
        self.num_bytes += row.num_bytes
        while self.num_bytes > self.max_bytes and len(self.rows) > 1:
            self.num_bytes -= self.rows.pop(next(iter(self.rows))).num_bytes

    def save(self) -> None:
        """Replace the file if there is anything new to write; of several processes, the last one to write wins."""
        if self._saved:
            return
        tensors = _packed(self.rows)
        try:
            with atomic_file(self.path) as file:
                file.write(save(tensors, {"checksum": _checksum(tensors)}))
            self._saved = True
        except OSError as error:
            log.warning("cannot store text embeddings for the next run: %s", error)


def _digest(caption: str) -> bytes:
    return hashlib.blake2b(caption.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _packed(rows: dict[bytes, Embedding]) -> dict[str, Tensor]:
    """Return digest (N, 16), length (N,), truncated (N,), text (sum of lengths, D) and pooled (N, P) by name."""
    embeddings = list(rows.values())
    return {
        "digest": torch.frombuffer(bytearray(b"".join(rows)), dtype=torch.uint8).reshape(-1, 16),
        "length": torch.tensor([len(row.text) for row in embeddings]),
        "truncated": torch.tensor([row.truncated for row in embeddings]),
        "text": torch.cat([row.text for row in embeddings]),
        "pooled": torch.stack([row.pooled for row in embeddings]),
    }


def _read(path: Path) -> dict[bytes, Embedding]:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            checksum = (file.metadata() or {}).get("checksum")
    except (OSError, SafetensorError) as error:
        log.warning("%s is damaged and will be created again: %s", path, error)
        return {}
    if checksum != _checksum(tensors):
        log.warning("%s is damaged and will be created again: its checksum differs", path)
        return {}
    texts = tensors["text"].split(tensors["length"].tolist())
    digests = [bytes(digest) for digest in tensors["digest"].tolist()]
    rows = zip(texts, tensors["pooled"], tensors["truncated"].tolist(), strict=True)
    return {digest: Embedding(*row) for digest, row in zip(digests, rows, strict=True)}


def _checksum(tensors: dict[str, Tensor]) -> str:
    total = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        total.update(f"{name} {tuple(value.shape)} {value.dtype} ".encode())
        total.update(value.contiguous().numpy().reshape(-1).view("u1").data)
    return total.hexdigest()
