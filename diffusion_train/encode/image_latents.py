"""Encode images that have no latents yet, and write the latents to shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, default_collate
from torch.utils.data import Dataset as TorchDataset
from tqdm import tqdm

from diffusion_train.autoencoder.base import Autoencoder
from diffusion_train.data.base import Batch, IndexedData
from diffusion_train.data.dataset import ShardDataset
from diffusion_train.data.image.collate import to_levels
from diffusion_train.data.order.order import Draw, Shape
from diffusion_train.data.precomputed.entries import Entries, EntryWriter
from diffusion_train.data.precomputed.latents import PrecomputedLatents
from diffusion_train.encode.rank import Rank
from diffusion_train.utils.process.child_process import serve_parent
from diffusion_train.utils.text import printable

_AT_ONCE = 4096  # samples looked up together


def encode_images(
    data: IndexedData, autoencoder: Autoencoder, out: Path, rank: Rank, batch_size: int, num_workers: int
) -> Counter[str]:
    """Encode this process's slice of all views that training may draw.

    Returns how many existed already ("there"), how many were "encoded", and how many are "bad": they cannot be decoded.
    """
    if autoencoder.fingerprint is None:
        return Counter()
    dataset, latents = shard_dataset(data), PrecomputedLatents(Entries(out), autoencoder.fingerprint)
    shapes = [(shape, rank.slice_of(samples)) for shape, samples in data.shapes()]
    missing = list(missing_views(dataset, latents, shapes))
    num_missing = sum(len(views.samples) for views in missing)
    num_views = sum(len(samples) for _, samples in shapes) * len(_orientations(dataset))
    done = Counter(there=num_views - num_missing)
    encoder = ImageEncoder(dataset, latents, autoencoder, rank.device, batch_size, num_workers)
    with EntryWriter(out, "latents") as writer, rank.progress("Encoding images", "image", num_missing) as bar:
        for views in missing:
            done += encoder.encode(views, writer, bar)
    return done


def shard_dataset(data: IndexedData) -> ShardDataset:
    """Return the data set of a data module. Raises ValueError if it does not read images from indexed shards."""
    dataset = getattr(data, "dataset", None)
    if isinstance(dataset, ShardDataset):
        return dataset
    raise ValueError("data: only images in indexed shards can be encoded; choose data=shards")


class Views(NamedTuple):
    """Samples (n,) of a data set in one shape, mirrored or not."""

    shape: Shape
    mirrored: bool
    samples: NDArray[np.int64]

    def draws(self, samples: NDArray[np.int64]) -> list[Draw]:
        return [Draw(0, sample, self.shape) for sample in samples.tolist()]


def missing_views(
    dataset: ShardDataset, latents: PrecomputedLatents, shapes: Iterable[tuple[Shape, NDArray[np.int64]]]
) -> Iterator[Views]:
    """Yield, by shape and orientation, the views that training may draw and that have no latents yet."""
    for shape, samples in shapes:
        for mirrored in _orientations(dataset):
            views = Views(shape, mirrored, samples)
            missing = [chunk[_is_missing(dataset, latents, views, chunk)] for chunk in chunks(samples)]
            yield views._replace(samples=np.concatenate([np.empty(0, np.int64), *missing]))


def _orientations(dataset: ShardDataset) -> tuple[bool, ...]:
    return (False, True) if dataset.decoder.preprocess.transform.flip else (False,)


def _is_missing(
    dataset: ShardDataset, latents: PrecomputedLatents, views: Views, samples: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return a mask (m,) of the samples (m,) without latents."""
    return np.array(latents.entries.find(_addresses(dataset, latents, views, samples)), np.int64) < 0


def _addresses(
    dataset: ShardDataset, latents: PrecomputedLatents, views: Views, samples: NDArray[np.int64]
) -> list[str]:
    numbers, draws = dataset.samples[samples], views.draws(samples)
    return latents.addresses(dataset.catalog, numbers, dataset.decoder.preprocess, draws, views.mirrored)


@dataclass(frozen=True)
class ImageEncoder:
    """Reads images in `num_workers` processes, encodes them and writes the moments of their latents."""

    dataset: ShardDataset
    latents: PrecomputedLatents
    autoencoder: Autoencoder
    device: torch.device
    batch_size: int
    num_workers: int

    def encode(self, views: Views, writer: EntryWriter, bar: tqdm[None]) -> Counter[str]:
        """Encode views; a sample that cannot be decoded is replaced by its substitute, as in training.

        Returns counts of "encoded" and "bad". Raises ValueError for latents that are NaN or infinite.
        """
        done = Counter[str]()
        for batch in self._loader(views):
            moments = _moments(self.autoencoder, batch["x"].to(self.device))
            _check_finite(moments, batch["key"])
            addresses = _addresses(self.dataset, self.latents, views, batch["index"].numpy())
            for row, number in enumerate(self.latents.entries.find(addresses)):
                if number < 0:  # a substitute may have an entry already
                    facts = {name: batch[name][row] for name in ("original_size", "crop")}
                    writer.add(addresses[row], {"moments": moments[row], **facts})
            bad = sum(map(bool, batch["bad"]))
            done.update(bad=bad, encoded=len(addresses) - bad)
            bar.update(len(addresses))
        return done

    def _loader(self, views: Views) -> DataLoader[Batch]:
        batches = _ViewBatches(self.dataset.oriented(views.mirrored), views, chunks(views.samples, self.batch_size))
        return DataLoader(
            batches,
            batch_size=None,
            num_workers=min(self.num_workers, len(batches)),
            worker_init_fn=serve_parent,
            generator=torch.Generator(),  # otherwise each iteration would draw from the global generator
        )


class _ViewBatches(TorchDataset[Batch]):
    def __init__(self, dataset: ShardDataset, views: Views, batches: list[NDArray[np.int64]]) -> None:
        self.dataset, self.views, self.batches = dataset, views, batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> Batch:
        batch: Batch = default_collate(self.dataset.read(self.views.draws(self.batches[number])))
        return batch


def _moments(autoencoder: Autoencoder, pixels: Tensor) -> Tensor:
    """Return the moments of pixels (B, 3, H, W) uint8, on the CPU.

    A single row is encoded twice, because a batch of one may round differently from the larger batches of training.
    """
    rows = len(pixels)
    filled = pixels if rows > 1 else torch.cat([pixels, pixels])
    x = to_levels({"x": filled})["x"]
    return autoencoder.moments(x)[:rows].to(autoencoder.dtype).cpu()


def _check_finite(moments: Tensor, keys: list[str]) -> None:
    finite = moments.isfinite().flatten(1).all(1)
    if not finite.all():
        names = ", ".join(printable(key) for key, good in zip(keys, finite.tolist(), strict=True) if not good)
        raise ValueError(f"autoencoder returned NaN or infinite latents for samples {names}")


def chunks(samples: NDArray[np.int64], size: int = _AT_ONCE) -> list[NDArray[np.int64]]:
    return np.split(samples, range(size, len(samples), size)) if len(samples) else []
