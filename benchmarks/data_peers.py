"""Other libraries behind one face, for data.py:
the same JPEGs and captions, in their own formats where they have one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

BATCH_SIZE = 64
Sample = tuple[bytes, str]


class Peer:
    """`samples()` goes on from where the object stands; `state()` is what `restore` takes in a new object."""

    module: str
    has_own_format = False

    def __init__(self, urls: list[str], folder: Path) -> None:
        raise NotImplementedError

    def samples(self) -> Iterator[Sample]:
        raise NotImplementedError

    state: Callable[[int], Any] | None = None  # of so many samples read

    def restore(self, state: Any) -> None:
        raise NotImplementedError


class WebDataset(Peer):
    module = "webdataset"

    def __init__(self, urls: list[str], folder: Path) -> None:
        import webdataset

        self.pipeline = webdataset.WebDataset(urls, shardshuffle=1000, seed=0).shuffle(1000)

    def samples(self) -> Iterator[Sample]:
        return ((sample["jpg"], sample["txt"].decode()) for sample in self.pipeline)


class LitData(Peer):
    """Gives views of a mapped file, which has not been read before they are made bytes."""

    module, has_own_format = "litdata", True

    def __init__(self, urls: list[str], folder: Path) -> None:
        import litdata
        from litdata.streaming.cache import Cache

        if not folder.exists():
            folder.mkdir()
            cache = Cache(str(folder), chunk_bytes=1 << 24)
            for number, (image, caption) in enumerate(in_order(urls)):
                cache[number] = {"jpg": image, "txt": caption}
            cache.done()
            cache.merge()
        self.dataset = litdata.StreamingDataset(str(folder), shuffle=True)
        self.make_loader = lambda: litdata.StreamingDataLoader(self.dataset, batch_size=BATCH_SIZE, collate_fn=list)
        self.loader: Any = None

    def samples(self) -> Iterator[Sample]:
        if self.loader:
            return ((bytes(sample["jpg"]), sample["txt"]) for batch in self.loader for sample in batch)
        return ((bytes(sample["jpg"]), sample["txt"]) for sample in self.dataset)

    def state(self, count: int) -> Any:
        loader = self.make_loader()
        for batch in loader:
            count -= len(batch)
            if count <= 0:
                return loader.state_dict()
        return None

    def restore(self, state: Any) -> None:
        self.loader = self.make_loader()
        self.loader.load_state_dict(state)


class Streaming(Peer):
    module, has_own_format = "streaming", True

    def __init__(self, urls: list[str], folder: Path) -> None:
        from streaming import MDSWriter, StreamingDataset

        if not folder.exists():
            with MDSWriter(out=str(folder), columns={"jpg": "bytes", "txt": "str"}) as writer:
                for image, caption in in_order(urls):
                    writer.write({"jpg": image, "txt": caption})
        self.dataset = StreamingDataset(local=str(folder), shuffle=True, batch_size=BATCH_SIZE)

    def samples(self) -> Iterator[Sample]:
        return ((sample["jpg"], sample["txt"]) for sample in self.dataset)

    def state(self, count: int) -> Any:
        next(self.samples())
        return self.dataset.state_dict(count, from_beginning=True)

    def restore(self, state: Any) -> None:
        self.dataset.load_state_dict(state)


class Energon(Peer):
    module = "megatron.energon"

    def __init__(self, urls: list[str], folder: Path) -> None:
        from megatron import energon
        from megatron.energon.flavors import BaseWebdatasetFactory

        class Bytes(energon.DefaultTaskEncoder):  # type: ignore[misc]
            decoder = None
            cookers = [energon.Cooker(energon.stateless(cook))]  # noqa: RUF012

        parent = Path(urls[0]).parent
        if not (parent / ".nv-meta" / "dataset.yaml").exists():
            BaseWebdatasetFactory.prepare_dataset(
                parent, [Path(url).name for url in urls], split_parts_ratio=[("train", 1.0)], workers=1
            )
            (parent / ".nv-meta" / "dataset.yaml").write_text(
                "__module__: megatron.energon\n__class__: CrudeWebdataset\n"
            )
        config = energon.WorkerConfig(rank=0, world_size=1, num_workers=0)
        dataset = energon.get_train_dataset(
            parent,
            worker_config=config,
            batch_size=None,
            shuffle_buffer_size=1000,
            max_samples_per_sequence=100,
            task_encoder=Bytes(),
        )
        self.loader = energon.get_savable_loader(dataset)

    def samples(self) -> Iterator[Sample]:
        return ((sample.image, sample.caption) for sample in self.loader)

    def state(self, count: int) -> Any:
        for _, _ in zip(range(count), self.samples(), strict=False):
            pass
        return self.loader.save_state_rank()

    def restore(self, state: Any) -> None:
        self.loader.restore_state_rank(state)


def cook(crude: dict[str, Any]) -> Any:
    from megatron import energon

    return energon.CaptioningSample(
        **energon.basic_sample_keys(crude), image=crude["jpg"], caption=crude["txt"].decode()
    )


def in_order(urls: list[str]) -> Iterator[Sample]:
    import webdataset

    for sample in webdataset.WebDataset(urls, shardshuffle=False):
        yield sample["jpg"], sample["txt"].decode()


PEERS: dict[str, type[Peer]] = {
    "webdataset": WebDataset,
    "litdata": LitData,
    "mosaicml-streaming": Streaming,
    "energon": Energon,
}
