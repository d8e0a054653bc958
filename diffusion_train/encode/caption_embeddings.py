"""Embed captions that have no embedding yet, and write the embeddings to shards."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from tqdm import tqdm

from diffusion_train.conditioner.base import Conditioner
from diffusion_train.conditioner.text.encoder import TextEncoder
from diffusion_train.data.precomputed.entries import Entries, EntryWriter
from diffusion_train.data.precomputed.texts import PrecomputedTexts
from diffusion_train.encode.rank import Rank

_AT_ONCE = 4096  # captions looked up together


def encode_captions(captions: Iterable[str], conditioner: Conditioner, out: Path, rank: Rank) -> Counter[str]:
    """Embed this process's slice of the captions, and the empty one, with each text encoder.

    Returns how many existed already ("there") and how many were "encoded".
    """
    done = Counter[str]()
    for text in conditioner.texts():
        texts = PrecomputedTexts(Entries(out), text.encoder.fingerprint)
        with EntryWriter(out, "text") as writer, rank.progress("Embedding captions", "caption") as bar:
            done += embed_captions(itertools.chain([""], captions), text.encoder, texts, writer, rank, bar)
    return done


def embed_captions(
    captions: Iterable[str],
    encoder: TextEncoder,
    texts: PrecomputedTexts,
    writer: EntryWriter,
    rank: Rank,
    bar: tqdm[None],
) -> Counter[str]:
    """Embed this process's slice of the captions with one encoder, then unload it. Returns counts as above."""
    done = Counter[str]()
    mine = _slice(captions, texts, rank)
    while some := list(itertools.islice(mine, _AT_ONCE)):
        missing = texts.missing(some)
        done.update(there=len(some) - len(missing), encoded=len(missing))
        for caption, row in encoder.embed(missing, rank.device) if missing else ():
            tensors = {"text": row.text, "pooled": row.pooled, "truncated": torch.tensor(row.truncated)}
            writer.add(texts.address(caption), tensors)
            bar.update()
    encoder.unload()
    return done


def _slice(captions: Iterable[str], texts: PrecomputedTexts, rank: Rank) -> Iterator[str]:
    """Yield this process's slice of the distinct captions, which are divided by their hash."""
    seen: set[int] = set()
    for caption in captions:
        short = int(texts.address(caption)[:16], 16)
        if short not in seen:
            seen.add(short)
            if short % rank.world_size == rank.number:
                yield caption
