"""One request for a range of bytes, retried until a deadline; each response is compared with the request."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from yarl import URL

from diffusion_train.data.storage.base import Changed, Denied, StorageError, split_version
from diffusion_train.data.storage.coalesce import Span
from diffusion_train.data.storage.http.address import AddressBook
from diffusion_train.data.storage.http.response import TryAgainError, content_range, empty_version, refusal
from diffusion_train.data.storage.settings import StorageSettings
from diffusion_train.utils.redact import redact_url, redact_urls

if TYPE_CHECKING:
    import aiohttp

log = logging.getLogger(__name__)
_LONGEST_PAUSE = 10.0
_jitter = random.SystemRandom()  # waiting times have no influence on results


class RangeRequest:
    """A request with its retries. `parts` are the bytes received so far, `received` their number.

    If the span has no version, that of the first response is used.
    """

    def __init__(self, span: Span, settings: StorageSettings, deadline: float) -> None:
        self.span = span
        self.version = span.version
        self.parts: list[bytes] = []
        self.received = 0
        self.num_retries = 0
        self._settings = settings
        self._deadline = deadline
        self._printable_url = redact_url(span.url)

    async def send(self, session: aiohttp.ClientSession, addresses: AddressBook) -> None:
        """Send the request until all bytes are received.

        Raises StorageError for permanent errors and at the deadline.
        """
        started, failures = time.monotonic(), 0
        try:
            while True:
                before = self.received
                try:
                    return await self._attempt(session, addresses)
                except TryAgainError as fault:
                    if self.received == self.span.size:
                        return None
                    failures = 1 if self.received > before else failures + 1
                    await self._pause(fault, failures, time.monotonic() - started)
        except Denied as error:
            raise Denied(f"{self._printable_url}: {error}{addresses.hint(self.span.url)}") from None
        except StorageError as error:
            raise type(error)(f"{self._printable_url}: {error}") from None

    async def _attempt(self, session: aiohttp.ClientSession, addresses: AddressBook) -> None:
        started, before = time.monotonic(), self.received
        with _network_faults():
            async with asyncio.timeout(self._settings.connect_timeout + self._settings.read_timeout):
                address = await addresses.address(self.span.url, self._headers())
                response = await session.get(
                    URL(address.url, encoded=True),
                    headers=address.headers,
                    allow_redirects=address.may_redirect,
                    proxy=address.proxy,
                )
            try:
                if not await self._bytes_follow(response):
                    return
                async for part in response.content.iter_any():
                    self.parts.append(part)
                    self.received += len(part)
                    self._check_speed(time.monotonic() - started, self.received - before)
            finally:
                response.release()
        if self.received > self.span.size:
            raise StorageError(f"the server sends more than the {self.span.size} requested bytes")
        if self.received < self.span.size:
            raise TryAgainError(f"the response ends early, at byte {self._next}")

    async def _bytes_follow(self, response: aiohttp.ClientResponse) -> bool:
        """Return False for an empty object.

        Raises the error of the response if it does not have the requested bytes.
        """
        headers = response.headers
        if not self.version and (version := empty_version(response.status, headers)):
            self.version = version
            return False
        if response.status != 206:
            raise refusal(response.status, headers, await self._error_body(response))
        start, end, version = content_range(headers)
        self.version = self.version or version
        if version != self.version:
            raise Changed("changed since it was indexed; restart to index it again")
        if (start, end) != (self._next, self.span.end):
            raise StorageError(f"the server must send bytes {self._next}-{self.span.end - 1}, got {start}-{end - 1}")
        return True

    async def _error_body(self, response: aiohttp.ClientResponse) -> bytes:
        import aiohttp

        with suppress(aiohttp.ClientError, OSError):
            async with asyncio.timeout(self._settings.read_timeout):
                return await response.content.read(4096) if response.status >= 400 else b""
        return b""

    @property
    def _next(self) -> int:
        return self.span.start + self.received

    def _headers(self) -> dict[str, str]:
        headers = {"Range": f"bytes={self._next}-{self.span.end - 1}", "Accept-Encoding": "identity"}
        validator = split_version(self.version)[1] if self.version else ""
        return headers | ({"If-Match": validator} if validator.startswith('"') else {})

    def _check_speed(self, seconds: float, received: int) -> None:
        if seconds > self._settings.read_timeout + received / self._settings.min_speed:
            raise TryAgainError(f"slower than {self._settings.min_speed:.0f} bytes per second")

    async def _pause(self, fault: TryAgainError, failures: int, elapsed: float) -> None:
        """Wait before the next attempt. Raises StorageError if that would be after the deadline."""
        pause = max(fault.after, min(0.05 * 2**failures, _LONGEST_PAUSE) * _jitter.uniform(0.5, 1))
        if elapsed + pause > self._deadline + self.received / self._settings.min_speed:
            tried = f"gave up after {self.num_retries + 1} attempts in {elapsed:.0f} s"
            raise StorageError(f"{fault}; {tried}") from None
        self.num_retries += 1
        log.info("%s: %s; again in %.1f s", self._printable_url, fault, pause)
        await asyncio.sleep(pause)


@contextmanager
def _network_faults() -> Iterator[None]:
    """Turn network errors into TryAgainError, except wrong certificates and redirects, which are permanent."""
    import aiohttp

    try:
        yield
    except aiohttp.ClientSSLError as error:
        raise StorageError(f"no secure connection: {_text(str(error))}") from None
    except (aiohttp.RedirectClientError, aiohttp.TooManyRedirects, aiohttp.InvalidURL):
        raise StorageError("the server redirects in a circle, or to an invalid address") from None
    except TimeoutError:
        raise TryAgainError("no response in time") from None
    except aiohttp.ClientResponseError as error:
        raise TryAgainError(f"invalid HTTP response ({error.status} {_text(error.message)})") from None
    except (aiohttp.ClientError, OSError) as error:
        raise TryAgainError(_text(str(error)) or type(error).__name__) from None


def _text(message: str) -> str:
    return redact_urls(message.partition("\n")[0]).rstrip(" :")
