"""Objects behind http(s)://, s3:// and gs://."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from diffusion_train.data.storage.address import Addresses
from diffusion_train.data.storage.base import Range, Stat, check_inside, split_version
from diffusion_train.data.storage.client import Client, OwnClient
from diffusion_train.data.storage.coalesce import Span, coalesce, separate
from diffusion_train.data.storage.settings import Settings
from diffusion_train.data.storage.transfer import Transfer

_LARGEST = 1 << 24  # bytes that neighbours are joined up to
_STAT_DEADLINE = 20.0  # seconds: a wrong host name is told soon


class RemoteStorage:
    """`num_retries` counts the requests of this process that had to be repeated."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self.num_retries = 0
        self._addresses = Addresses()
        self._client = OwnClient(self, self.settings)

    def stat(self, url: str) -> Stat:
        """Asks for the first byte: HEAD is often refused, and a signature is good for GET alone."""
        transfer = Transfer(Span(url, "", 0, 1), self.settings, min(self.settings.deadline, _STAT_DEADLINE))
        client = self._client.get()
        _wait(client.start(self._all(client, [transfer])))
        return Stat(split_version(transfer.version)[0], transfer.version)

    def read(self, ranges: Sequence[Range]) -> list[bytes]:
        return self.begin(ranges)()

    def begin(self, ranges: Sequence[Range]) -> Callable[[], list[bytes]]:
        """Asks for the ranges and returns at once; calling what it returns gives the bytes, or raises."""
        spans = coalesce(ranges, self.settings.gap_bytes, _LARGEST)
        transfers = [Transfer(span, self.settings, self.settings.deadline) for span in spans]
        client, process = self._client.get(), os.getpid()
        future = client.start(self._all(client, transfers, ranges))

        def finish() -> list[bytes]:
            if process != os.getpid():
                return self.read(ranges)  # the thread that waits for the answers stayed in the parent
            _wait(future)
            return separate(ranges, spans, [b"".join(transfer.parts) for transfer in transfers])

        return finish

    async def _all(self, client: Client, transfers: Sequence[Transfer], ranges: Sequence[Range] = ()) -> None:
        """The first that fails ends all."""

        async def one(transfer: Transfer) -> None:
            async with client.limit:
                try:
                    await transfer.finish(client.session, self._addresses)
                finally:
                    self.num_retries += transfer.num_retries

        check_inside(ranges)
        async with asyncio.TaskGroup() as group:
            for transfer in transfers:
                group.create_task(one(transfer))

    def __reduce__(self) -> tuple[type[RemoteStorage], tuple[Settings]]:
        return RemoteStorage, (self.settings,)


def _wait(future: Future[None]) -> None:
    try:
        future.result()
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None
    finally:
        future.cancel()  # given up where the waiting is interrupted
