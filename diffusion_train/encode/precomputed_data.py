"""Train on encoded data: latents in place of images, embeddings in place of text encoders."""

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
from diffusion_train.utils.text import argument


def use_precomputed(
    where: Patterns, data: IndexedData, conditioner: Conditioner, autoencoder: Autoencoder
) -> IndexedData:
    """Return `data` with latents from `where` in its batches, and let `conditioner` read embeddings from there.

    Raises ValueError if latents are missing.
    """
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
        raise ValueError(f"data.encoded={where}: {reason}; give the output of `diffusion-train encode`") from error


def embeddings(entries: Entries, encoder: TextEncoder) -> PrecomputedEmbeddings:
    """Return a function from captions to those embeddings of this encoder that are among the entries."""
    texts = PrecomputedTexts(entries, encoder.fingerprint)

    def read(captions: Sequence[str]) -> Iterator[tuple[str, Embedding]]:
        return ((caption, Embedding(*row)) for caption, row in texts(captions))

    return read


def check_encodable(dataset: ShardDataset) -> None:
    """Raises ValueError with every setting of the data that needs pixels, or that has an unlimited number of views."""
    transform = dataset.decoder.preprocess.transform
    wrong = []
    if transform.crop == "random":
        wrong.append(
            "data.crop=random: gives too many different crops of an image to encode them all; "
            "use center or focal, or train without data.encoded"
        )
    for key, names in (("data.images", dataset.decoder.images), ("data.aligned", transform.aligned)):
        if names:
            wrong.append(
                f"{key}: {', '.join(names)} need pixels, which are not read with data.encoded; "
                "train without data.encoded"
            )
    if wrong:
        raise ValueError("\n".join(wrong))


def check_complete(
    dataset: ShardDataset, latents: PrecomputedLatents, shapes: Iterable[tuple[Shape, NDArray[np.int64]]], where: str
) -> None:
    """Raises ValueError if an image that can be decoded, or the substitute of one that cannot, has no latents.

    Images without latents are read until one can be decoded.
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
                    f"data.encoded={where}: {total:,} images have no latents for their current contents, the settings "
                    f"and the autoencoder ({len(views.samples):,} of them at {width} x {height} pixels"
                    f"{', mirrored' if views.mirrored else ''}); to add them, run `diffusion-train encode` with the "
                    f"same overrides and {argument('out', where)}"
                ) from error
