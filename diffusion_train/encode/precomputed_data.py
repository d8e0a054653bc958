"""Training on what was encoded: latents in place of images, embeddings in place of text encoders."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from diffusion_train.autoencoder.base import Autoencoder
from diffusion_train.conditioner.base import Conditioner
from diffusion_train.conditioner.text.encoder import Embedding, PrecomputedEmbeddings, TextEncoder
from diffusion_train.data.base import IndexedData
from diffusion_train.data.dataset import ShardDataset
from diffusion_train.data.order.order import Shape
from diffusion_train.data.precomputed.entries import Entries
from diffusion_train.data.precomputed.latents import NoLatents, PrecomputedLatents
from diffusion_train.data.precomputed.texts import PrecomputedTexts
from diffusion_train.data.shard.patterns import Patterns
from diffusion_train.data.shard.problem import DataError
from diffusion_train.data.storage.base import StorageError
from diffusion_train.data.storage.by_scheme import StorageByScheme
from diffusion_train.encode.image_latents import chunks, missing_views, shard_dataset


def use_precomputed(
    where: Patterns, data: IndexedData, conditioner: Conditioner, autoencoder: Autoencoder
) -> IndexedData:
    """`data` whose batches hold latents of `where`; `conditioner` takes embeddings of there. ValueError where latents are missing."""
    dataset = shard_dataset(data)
    entries = _open(where, dataset.storage)
    for text in conditioner.texts():
        text.use_precomputed(embeddings(entries, text.encoder))
    if autoencoder.fingerprint is None:
        return data
    check_encodable(dataset)
    latents = PrecomputedLatents(entries, autoencoder.fingerprint)
    try:
        check_complete(dataset, latents, data.shapes(), str(where))
    except StorageError as error:
        raise ValueError(f"data.encoded={where}: cannot be compared with data.shards: {error}") from error
    return data.reading_from(dataset.with_latents(latents))


def _open(where: Patterns, storage: StorageByScheme) -> Entries:
    try:
        return Entries(where if isinstance(where, str | os.PathLike) else list(where), storage)
    except DataError as error:
        reason = "; ".join(map(str, error.problems)) or str(error)
        raise ValueError(f"data.encoded={where}: {reason}; give what `diffusion-train encode` wrote") from error


def embeddings(entries: Entries, encoder: TextEncoder) -> PrecomputedEmbeddings:
    """Captions -> those embeddings of this encoder that are among the entries."""
    texts = PrecomputedTexts(entries, encoder.fingerprint)

    def read(captions: Sequence[str]) -> Iterator[tuple[str, Embedding]]:
        return ((caption, Embedding(*row)) for caption, row in texts(captions))

    return read


def check_encodable(dataset: ShardDataset) -> None:
    """Raises ValueError with every setting of the data that asks for pixels, or for no end of views of them."""
    transform = dataset.decoder.view.transform
    wrong = []
    if transform.crop == "random":
        wrong.append(
            "data.crop=random: has no end of views to encode; use center or focal, or train without data.encoded"
        )
    for key, names in (("data.images", dataset.decoder.images), ("data.aligned", transform.aligned)):
        if names:
            wrong.append(f"{key}: {', '.join(names)} are made of pixels, which are not read with data.encoded")
    if wrong:
        raise ValueError("\n".join(wrong))


def check_complete(
    dataset: ShardDataset, latents: PrecomputedLatents, shapes: Iterable[tuple[Shape, NDArray[np.int64]]], where: str
) -> None:
    """Raises ValueError if latents are missing of an image that can be decoded, or of the substitute of one that cannot.

    Reads samples of which none are there until one can be decoded.
    """
    missing = [views for views in missing_views(dataset, latents, shapes) if len(views.samples)]
    total = len(np.unique(np.concatenate([views.samples for views in missing]))) if missing else 0
    for views in missing:
        cached = dataset.oriented(views.mirrored).with_latents(latents)
        for chunk in chunks(views.samples, 16):
            try:
                cached.read(views.draws(chunk))
            except NoLatents as error:
                height, width = views.shape
                raise ValueError(
                    f"data.encoded={where}: {total:,} images have no latents there, {len(views.samples):,} of them in "
                    f"{width} x {height} pixels{', mirrored' if views.mirrored else ''}, made of them as they are now, with these "
                    f"settings and by this autoencoder. `diffusion-train encode` with the same overrides and out={where} makes those that are missing"
                ) from error
