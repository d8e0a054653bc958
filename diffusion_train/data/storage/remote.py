"""Objects behind http(s)://, s3:// and gs://."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

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
        self._finish([transfer])
        return Stat(split_version(transfer.version)[0], transfer.version)

    def read(self, ranges: Sequence[Range]) -> list[bytes]:
        check_inside(ranges)
        spans = coalesce(ranges, self.settings.gap_bytes, _LARGEST)
        transfers = [Transfer(span, self.settings, self.settings.deadline) for span in spans]
        self._finish(transfers)
        return separate(ranges, spans, [transfer.body for transfer in transfers])

    def _finish(self, transfers: Sequence[Transfer]) -> None:
        """The first that fails ends all."""
        client = self._client.get()
        try:
            client.run(_all(client, self._addresses, transfers))
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        finally:
            self.num_retries += sum(transfer.num_retries for transfer in transfers)

    def __reduce__(self) -> tuple[type[RemoteStorage], tuple[Settings]]:
        return RemoteStorage, (self.settings,)


async def _all(client: Client, addresses: Addresses, transfers: Sequence[Transfer]) -> None:
    async def one(transfer: Transfer) -> None:
        async with client.limit:
            await transfer.finish(client.session, addresses)

    async with asyncio.TaskGroup() as group:
        for transfer in transfers:
            group.create_task(one(transfer))
