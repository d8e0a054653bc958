"""The HTTP connections of one process, kept open on an event loop in a separate thread."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from diffusion_train.data.storage.settings import StorageSettings

if TYPE_CHECKING:
    import aiohttp

T = TypeVar("T")
_of_parents: list[Client] = []  # referenced, because closing these would affect connections that another process uses


class Client:
    """An HTTP session on an event loop in its own thread. At most `limit` requests are sent at a time."""

    session: aiohttp.ClientSession
    limit: asyncio.Semaphore

    def __init__(self, settings: StorageSettings) -> None:
        self._settings = settings
        self._closing, self._closed = threading.Lock(), False
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="storage", daemon=True)
        self._thread.start()
        self._ready.wait()

    async def _serve(self) -> None:
        import aiohttp

        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        self.limit = asyncio.Semaphore(self._settings.num_requests)
        waits = aiohttp.ClientTimeout(
            total=None, sock_connect=self._settings.connect_timeout, sock_read=self._settings.read_timeout
        )
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),  # bounded by `limit`
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=waits,
            auto_decompress=False,
            requote_redirect_url=False,
            read_bufsize=1 << 20,
        ) as self.session:
            self._ready.set()
            await self._end.wait()
            # cancel unfinished requests while their connections are still open, so that nothing is logged
            begun = asyncio.all_tasks() - {asyncio.current_task()}
            for task in begun:
                task.cancel()
            await asyncio.gather(*begun, return_exceptions=True)

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine on the loop. Raises RuntimeError after `close`, which a thread that reads ahead may meet."""
        with self._closing:
            if self._closed:
                work.close()
                raise RuntimeError("the storage is closed")
            return asyncio.run_coroutine_threadsafe(work, self._loop)

    def close(self) -> None:
        """Cancel unfinished requests, close the session and end the thread."""
        with self._closing:
            self._closed = True
            self._loop.call_soon_threadsafe(self._end.set)  # after everything that was started
        if threading.current_thread() is not self._thread:
            self._thread.join()


class OwnClient:
    """The client of this process, which is made on first use and closed with `owner`."""

    _client: Client | None

    def __init__(self, owner: object, settings: StorageSettings) -> None:
        self._owner, self._settings = weakref.ref(owner), settings
        self._start_anew()

    def get(self) -> Client:
        """Return the client; a forked process gets a new one."""
        if self._process != os.getpid():
            _of_parents.extend([self._client] if self._client else [])
            self._start_anew()
        with self._lock:
            if self._client is None:
                self._client = Client(self._settings)
                weakref.finalize(self._owner(), _close, self._client, self._process)
            return self._client

    def _start_anew(self) -> None:
        self._process, self._lock, self._client = os.getpid(), threading.Lock(), None


def _close(client: Client, process: int) -> None:
    if process == os.getpid():
        client.close()
