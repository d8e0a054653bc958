"""Remote objects: http(s)://, s3:// and gs://."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from diffusion_train.data.storage.base import Range, Stat, check_inside, split_version
from diffusion_train.data.storage.coalesce import Span, coalesce, separate
from diffusion_train.data.storage.http.address import AddressBook
from diffusion_train.data.storage.http.client import Client, OwnClient
from diffusion_train.data.storage.http.request import RangeRequest
from diffusion_train.data.storage.settings import StorageSettings

_LARGEST = 1 << 24  # bytes of a request for joined ranges
_STAT_DEADLINE = 20.0  # seconds, so that a wrong host name fails early


class RemoteStorage:
    """Reads remote objects. `num_retries` counts the requests of this process that had to be repeated."""

    def __init__(self, settings: StorageSettings | None = None) -> None:
        self.settings = settings or StorageSettings()
        self.num_retries = 0
        self._addresses = AddressBook()
        self._client = OwnClient(self, self.settings)

    def stat(self, url: str) -> Stat:
        """Return the state of an object by requesting its first byte: servers and signatures often exclude HEAD."""
        request = RangeRequest(Span(url, "", 0, 1), self.settings, min(self.settings.deadline, _STAT_DEADLINE))
        client = self._client.get()
        _wait(client.start(self._send_all(client, [request])))
        return Stat(split_version(request.version)[0], request.version)

    def read(self, ranges: Sequence[Range]) -> list[bytes]:
        return self.request(ranges)()

    def request(self, ranges: Sequence[Range]) -> Callable[[], list[bytes]]:
        """Send the requests, and return at once a function that returns the bytes, or raises."""
        spans = coalesce(ranges, self.settings.gap_bytes, _LARGEST)
        requests = [RangeRequest(span, self.settings, self.settings.deadline) for span in spans]
        client, process = self._client.get(), os.getpid()
        future = client.start(self._send_all(client, requests, ranges))

        def finish() -> list[bytes]:
            if process != os.getpid():
                return self.read(ranges)  # the thread that waits for the responses stayed in the parent
            _wait(future)
            return separate(ranges, spans, [b"".join(request.parts) for request in requests])

        return finish

    async def _send_all(self, client: Client, requests: Sequence[RangeRequest], ranges: Sequence[Range] = ()) -> None:
        """Send all requests; the first one that fails cancels the others."""

        async def send(request: RangeRequest) -> None:
            async with client.limit:
                try:
                    await request.send(client.session, self._addresses)
                finally:
                    self.num_retries += request.num_retries

        check_inside(ranges)
        async with asyncio.TaskGroup() as group:
            for request in requests:
                group.create_task(send(request))

    def __reduce__(self) -> tuple[type[RemoteStorage], tuple[StorageSettings]]:
        return RemoteStorage, (self.settings,)


def _wait(future: Future[None]) -> None:
    try:
        future.result()
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None
    finally:
        future.cancel()  # if waiting was interrupted
