"""Read shards that cannot be indexed from front to back with webdataset's pipeline: endless lists, no range requests.

Resuming is not exact: a restart draws other shards, and the samples of a step depend on the number of processes and
workers. Shards are drawn with replacement, so that no process ever waits for another.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import random
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import pytorch_lightning as pl
import webdataset
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from webdataset.tariterators import group_by_keys, tar_file_expander

from diffusion_train.data.base import Batch, Sample
from diffusion_train.data.batch_size import indivisible, wrong_sizes
from diffusion_train.data.caption.captions import Captions
from diffusion_train.data.image.collate import collate, to_levels
from diffusion_train.data.image.decode import IMAGE_EXTENSIONS, is_image_name
from diffusion_train.data.image.preprocess import Preprocess
from diffusion_train.data.loader import process
from diffusion_train.data.order.order import Draw
from diffusion_train.data.selection import UNUSED_IMAGE
from diffusion_train.data.shard.patterns import Patterns, find_shards
from diffusion_train.data.shard.problem import DataError, Problem
from diffusion_train.data.storage.urls import is_local, local_path, scheme_of
from diffusion_train.data.synchronized_loader import together
from diffusion_train.utils.process.child_process import serve_parent
from diffusion_train.utils.redact import redact_url
from diffusion_train.utils.rng import key_seed
from diffusion_train.utils.text import printable

log = logging.getLogger(__name__)

_TIMEOUT = 30.0  # seconds of silence
_MAX_FAULTS_IN_A_ROW = 1000


class StreamModule(pl.LightningDataModule):
    """Data module of streamed shards. `batch_size` counts the samples of one optimizer step over all devices.

    Each worker holds `shuffle` samples, from which it draws. Nothing is held out. Raises DataError for addresses that
    cannot be streamed.
    """

    problems: Sequence[Problem] = ()
    num_samples = 0  # unknown
    resume_policy = "other samples are drawn"

    def __init__(
        self,
        shards: Patterns,
        preprocess: Preprocess,
        captions: Captions,
        batch_size: int,
        micro_batch_size: int | None = None,
        num_workers: int = 0,
        shuffle: int = 1000,
    ) -> None:
        super().__init__()
        urls, problems = find_shards(shards)
        streamed = ("file", "http", "https")
        problems += [
            Problem("unreadable-shard", redact_url(url), f"cannot be streamed; only {', '.join(streamed)} can")
            for url in urls
            if scheme_of(url) not in streamed
        ]
        problems += [
            Problem("unreadable-shard", url, "not a regular file, so it may never end")
            for url in urls
            if is_local(url) and os.path.exists(local_path(url)) and not os.path.isfile(local_path(url))
        ]
        if problems:
            raise DataError.listing(problems)
        captions.keys()  # reads the table, if there is one: raises early, and workers need not read it again
        self.stream = _Stream(urls, preprocess, captions, shuffle)
        self.shape = preprocess.transform.shape
        self.batch_size, self.micro_batch_size, self.num_workers = batch_size, micro_batch_size, num_workers
        self.check()

    @property
    def description(self) -> str:
        return f"a stream of {len(self.stream.urls):,} shards, which cannot be resumed exactly"

    @property
    def facts(self) -> dict[str, Any]:
        return {"shards": [redact_url(url) for url in self.stream.urls], "streamed": True}

    @property
    def identity(self) -> dict[str, Any]:
        return {"data": "stream", "data.captions": self.stream.captions.settings, "data.batch_size": self.batch_size}

    def record(self, step: int) -> dict[str, Any]:
        return {"cursor": step * self.batch_size}

    def save_manifest(self, folder: Path) -> None:
        """Do nothing: there is no record of the samples that were drawn."""

    def prune_manifests(self, folder: Path, records: Iterable[Mapping[str, Any]]) -> None:
        """Do nothing: there are no manifests."""

    def resume(self, step: int, record: Mapping[str, Any], folder: Path) -> None:
        log.warning(
            "data=stream cannot resume exactly: from step %d on, it draws other samples than a run without "
            "interruption",
            step,
        )
        self.stream.start = step

    def check(self, world_size: int = 1) -> None:
        """Raises ValueError with every size that does not work with `world_size` processes."""
        sizes = (self.batch_size, self.micro_batch_size, self.num_workers)
        if wrong := [*indivisible(self.batch_size, world_size), *wrong_sizes(*sizes)]:
            raise ValueError("\n".join(wrong))

    def train_dataloader(self) -> Iterable[Batch]:
        self.stream.rank, world_size, cuda = process(self.trainer)
        self.check(world_size)
        batches = DataLoader(
            self.stream,
            batch_size=self.batch_size // world_size,
            num_workers=self.num_workers,
            pin_memory=cuda,
            worker_init_fn=serve_parent,
        )
        return together(batches)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Convert images to float32 on the device; as bytes they are a quarter of the size to transfer."""
        return to_levels(batch)

    def examples(self, num_samples: int) -> Batch:
        """Return the first samples of the stream."""
        return collate(list(itertools.islice(self.stream, num_samples)))

    def held_out(self, num_samples: int) -> Batch | None:
        return None

    def captions(self) -> Iterator[str]:
        """Yield nothing: no captions are known in advance."""
        return iter(())


class _Stream(IterableDataset[Sample]):
    """Yields samples without end. A sample carries the problems of those skipped before it, in "bad"."""

    rank, start, has_warned = 0, 0, False

    def __init__(self, urls: Sequence[str], preprocess: Preprocess, captions: Captions, shuffle: int) -> None:
        self.urls, self.preprocess, self.captions, self.shuffle = list(urls), preprocess, captions, shuffle

    def __iter__(self) -> Iterator[Sample]:
        worker = get_worker_info()
        number, count = (worker.id, worker.num_workers) if worker else (0, 1)
        seed = key_seed("stream", self.captions.seed, self.rank, number, self.start)
        faults: list[Problem] = []
        pipeline = webdataset.DataPipeline(
            webdataset.ResampledShards(self.urls, seed=seed, deterministic=True, worker_seed=lambda: seed),
            lambda shards: _members(shards, faults.append),
            lambda members: group_by_keys(members, handler=lambda error: _noted(error, faults.append)),
            *([webdataset.shuffle(self.shuffle, rng=random.Random(seed))] if self.shuffle else []),
        )
        drawn = 0
        for sample in pipeline:
            made = self._made(sample, drawn * count + number, faults)
            if made:
                yield {**made, "bad": "\n".join(json.dumps(vars(fault)) for fault in faults)}
                faults.clear()
                drawn += 1
            elif len(faults) > _MAX_FAULTS_IN_A_ROW:
                raise DataError.listing(faults)

    def _made(self, sample: dict[str, Any], index: int, faults: list[Problem]) -> Sample | None:
        key = sample["__key__"]
        images = [name for name in sample if name in IMAGE_EXTENSIONS]
        unused = [f"{key}.{name}" for name in sample if is_image_name(name) and name not in images]
        if unused and not self.has_warned:
            self.has_warned = True
            log.warning("images are not trained on, such as %s (%s)", printable(unused[0]), UNUSED_IMAGE)
        try:
            if len(images) != 1:
                raise ValueError(f"{len(images)} images")
            caption = self.captions(sample, key, 0, index)
            texts = self.captions.said(sample, key)
            tensors = self.preprocess(sample[images[0]], Draw(0, index), texts, {}, sample.get("json"))
        except ValueError as error:
            rule = getattr(error, "rule", "bad-sample")
            faults.append(Problem(rule, redact_url(sample["__url__"]), str(error), key))
            return None
        return {**tensors, "caption": caption, "key": key, "index": index}


def _members(shards: Iterator[dict[str, Any]], report: Callable[[Problem], None]) -> Iterator[dict[str, Any]]:
    """Yield the members of one shard after the other; an empty member ends the last sample of each shard."""
    for shard in shards:
        try:
            with _open(shard["url"]) as stream:
                yield from tar_file_expander(iter([{**shard, "stream": stream}]))
        except Exception as error:  # noqa: BLE001  webdataset and servers raise almost anything
            report(Problem("torn-shard", redact_url(shard["url"]), f"{type(error).__name__}: {str(error)[:200]}"))
        yield {}


def _open(url: str) -> IO[bytes]:
    if scheme_of(url) == "file":
        return open(local_path(url), "rb")
    response: IO[bytes] = urllib.request.urlopen(url, timeout=_TIMEOUT)
    return response


def _noted(error: Exception, report: Callable[[Problem], None]) -> bool:
    report(Problem("duplicate-member", "", str(error.args[0])))
    return True
