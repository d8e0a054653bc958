"""Making the entries of `encoded`: latents of images and embeddings of captions, those that are not there yet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from tqdm import tqdm

from diffusion_train.autoencoder.base import Autoencoder
from diffusion_train.conditioner.text.text_conditioner import Text
from diffusion_train.data.dataset import Sample, ShardDataset
from diffusion_train.data.image.collate import stack, to_levels
from diffusion_train.data.order.order import Draw, Shape
from diffusion_train.data.precomputed.encoded import EncodedImages, EncodedTexts, NoLatents
from diffusion_train.data.precomputed.entries import EntryWriter
from diffusion_train.utils.interruption import leave_signals_to_the_parent
from diffusion_train.utils.text import shown

_BLOCK = 64  # samples
_AT_ONCE = 4096  # samples or captions looked up together


class Share(NamedTuple):
    """What one of several processes does, and on which device."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = torch.device("cpu")

    def of(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Blocks of neighbours in turn, whatever is there already: new samples at the end are everybody's work."""
        return samples[samples // _BLOCK % self.world_size == self.rank]


class Views(NamedTuple):
    """Samples of a data set that are to be encoded in one shape, mirrored or not."""

    shape: Shape
    mirrored: bool
    samples: NDArray[np.int64]

    def draws(self, samples: NDArray[np.int64]) -> list[Draw]:
        return [Draw(0, sample, self.shape) for sample in samples.tolist()]


def missing_views(
    dataset: ShardDataset, encoded: EncodedImages, shapes: Iterable[tuple[Shape, NDArray[np.int64]]]
) -> Iterator[Views]:
    """All that training may draw of images and that has no entry yet."""
    for shape, samples in shapes:
        for mirrored in (False, True) if dataset.reader.view.transform.flip else (False,):
            view = Views(shape, mirrored, samples)
            missing = [chunk[absent(dataset, encoded, view, chunk)] for chunk in _chunks(samples)]
            yield view._replace(samples=np.concatenate([np.empty(0, np.int64), *missing]))


def absent(dataset: ShardDataset, encoded: EncodedImages, view: Views, samples: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each of the samples (m,) has no entry."""
    addresses = encoded.addresses(
        dataset.collection, dataset.samples[samples], dataset.reader.view, view.draws(samples), view.mirrored
    )
    return np.array(encoded.entries.find(addresses), np.int64) < 0


def encode_images(
    dataset: ShardDataset,
    encoded: EncodedImages,
    view: Views,
    autoencoder: Autoencoder,
    writer: EntryWriter,
    device: torch.device,
    batch_size: int,
    num_workers: int,
    bar: tqdm[None],
) -> Counter[str]:
    """Of a sample that cannot be decoded, that of its substitute. ValueError for latents that are no numbers."""
    done = Counter[str]()
    seen = dataset.oriented(view.mirrored)
    reads = _Reads(seen, view, _chunks(view.samples, batch_size))
    loader = DataLoader(
        reads,
        batch_size=None,
        num_workers=min(num_workers, len(reads)),
        worker_init_fn=leave_signals_to_the_parent,
        generator=torch.Generator(),  # without one, each iteration would draw from the global one
    )
    for batch in loader:
        moments = _moments(autoencoder, batch["x"].to(device))
        _refuse_no_numbers(moments, batch["key"])
        draws = [Draw(0, index, view.shape) for index in batch["index"].tolist()]
        numbers = dataset.samples[batch["index"].numpy()]
        addresses = encoded.addresses(dataset.collection, numbers, dataset.reader.view, draws, view.mirrored)
        for place, number in enumerate(encoded.entries.find(addresses)):
            if number < 0:  # a substitute's may be there
                facts = {name: batch[name][place] for name in ("original_size", "crop")}
                writer.add(addresses[place], {"moments": moments[place], **facts})
        bad = sum(map(bool, batch["bad"]))
        done.update(bad=bad, encoded=len(addresses) - bad)
        bar.update(len(addresses))
    return done


def encode_captions(
    captions: Iterable[str],
    text: Text,
    encoded: EncodedTexts,
    writer: EntryWriter,
    share: Share,
    bar: tqdm[None],
) -> Counter[str]:
    """Different captions are shared out by their hash."""
    done = Counter[str]()
    seen: set[int] = set()
    waiting: list[str] = []

    def embed() -> None:
        absent = encoded.missing(waiting)
        done.update(there=len(waiting) - len(absent), encoded=len(absent))
        for caption, row in text.encoder.embed(absent, share.device) if absent else ():
            row_of = {"text": row.text, "pooled": row.pooled, "truncated": torch.tensor(row.truncated)}
            writer.add(encoded.address(caption), row_of)
            bar.update()
        waiting.clear()

    for caption in captions:
        short = int(encoded.address(caption)[:16], 16)
        if short not in seen:
            seen.add(short)
            if short % share.world_size == share.rank:
                waiting.append(caption)
        if len(waiting) >= _AT_ONCE:
            embed()
    embed()
    text.encoder.unload()
    return done


def refuse_uncached(dataset: ShardDataset) -> None:
    """Raises ValueError with every setting of the data that asks for pixels, or for no end of views of them."""
    transform = dataset.reader.view.transform
    wrong = []
    if transform.crop == "random":
        wrong.append(
            "data.crop=random: has no end of views to encode; use center or focal, or train without data.encoded"
        )
    for key, names in (("data.images", dataset.reader.images), ("data.aligned", transform.aligned)):
        if names:
            wrong.append(f"{key}: {', '.join(names)} are made of pixels, which are not read with data.encoded")
    if wrong:
        raise ValueError("\n".join(wrong))


def refuse_missing(
    dataset: ShardDataset, encoded: EncodedImages, shapes: Iterable[tuple[Shape, NDArray[np.int64]]], where: str
) -> None:
    """Raises ValueError if latents are missing of an image that can be decoded, or of the substitute of one that cannot.

    Reads samples of which none are there until one can be decoded.
    """
    views = [view for view in missing_views(dataset, encoded, shapes) if len(view.samples)]
    total = len(np.unique(np.concatenate([view.samples for view in views]))) if views else 0
    for view in views:
        cached = dataset.oriented(view.mirrored).with_latents(encoded)
        for chunk in _chunks(view.samples, 16):
            try:
                cached.read(view.draws(chunk))
            except NoLatents as error:
                height, width = view.shape
                raise ValueError(
                    f"data.encoded={where}: {total:,} images have no latents there, {len(view.samples):,} of them in "
                    f"{width} x {height} pixels{', mirrored' if view.mirrored else ''}, made of them as they are now, with these "
                    f"settings and by this autoencoder. `diffusion-train encode` with the same overrides and out={where} makes those that are missing"
                ) from error


class _Reads(TorchDataset[Sample]):
    def __init__(self, dataset: ShardDataset, view: Views, batches: list[NDArray[np.int64]]) -> None:
        self.dataset, self.view, self.batches = dataset, view, batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> Sample:
        return stack(self.dataset.read(self.view.draws(self.batches[number])))


def _moments(autoencoder: Autoencoder, pixels: Tensor) -> Tensor:
    """(B, 3, H, W) bytes -> moments on the CPU. A row alone may round otherwise than one among others, as in training."""
    rows = len(pixels)
    filled = pixels if rows > 1 else torch.cat([pixels, pixels])
    x = to_levels({"x": filled})["x"]
    return autoencoder.moments(x)[:rows].to(autoencoder.dtype).cpu()


def _refuse_no_numbers(moments: Tensor, keys: list[str]) -> None:
    finite = moments.isfinite().flatten(1).all(1)
    if not finite.all():
        names = ", ".join(shown(key) for key, good in zip(keys, finite.tolist(), strict=True) if not good)
        raise ValueError(f"the autoencoder answers no numbers for the samples {names}")


def _chunks(samples: NDArray[np.int64], size: int = _AT_ONCE) -> list[NDArray[np.int64]]:
    return np.split(samples, range(size, len(samples), size)) if len(samples) else []
