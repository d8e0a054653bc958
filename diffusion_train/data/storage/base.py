"""The contract of storage: ranges of bytes of objects whose changes are noticed, and the errors.

How a read proceeds (each line calls the next one):

    StorageByScheme.begin / read     by_scheme.py     splits the ranges into local and remote ones
      LocalStorage.read              local.py         local files
      CachedStorage.read             cached.py        if a cache folder is set; reads missing blocks from RemoteStorage
        BlockFiles                   blocks.py        the files of the cache
      RemoteStorage.request / read   remote.py        concurrent requests, one for neighbouring ranges (coalesce.py)
        RangeRequest.send            http/request.py  one request with its retries, resumed at the byte reached
          AddressBook.address        http/address.py  the URL, signed (http/signer.py), and its proxy
          refusal, content_range     http/response.py what the response means

`StorageByScheme.prefetch` calls `CachedStorage.fill`, whose Prefetcher (prefetch.py) fetches blocks in the background.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from diffusion_train.utils.redact import redact_url


class Stat(NamedTuple):
    """The state of an object: its size in bytes and a version that changes with the object; see `make_version`."""

    size: int
    version: str


class Range(NamedTuple):
    """`size` bytes from `offset` on of an object, in the state for which `stat` returned `version`."""

    url: str
    version: str
    offset: int
    size: int


class StorageError(RuntimeError):
    """Bytes that could not be read. Messages name the URL without credentials."""


class Missing(StorageError):
    """The object does not exist."""


class Denied(StorageError):
    """The object must not be read with the available credentials."""


class Changed(StorageError):
    """The object has changed since its version was recorded."""


class NoRanges(StorageError):
    """The server does not support range requests."""


class Storage(Protocol):
    """Reads objects. It works in several threads and after a fork, and can be pickled (only its settings are).

    Raises ValueError for an unsupported URL, and StorageError for everything else.
    """

    def stat(self, url: str) -> Stat:
        """Return the state of an object."""

    def read(self, ranges: Sequence[Range]) -> list[bytes]:
        """Return the bytes of every range, in order. If a batch is read with one call, neighbours share a request."""


def make_version(size: int, validator: str | int) -> str:
    """Return a version; `validator` is a time of change, an ETag, or "" if only the size can be compared."""
    return f"{size}:{validator}"


def split_version(version: str) -> tuple[int, str]:
    """Return (size, validator) of a version."""
    size, _, validator = version.partition(":")
    return int(size), validator


def check_inside(ranges: Sequence[Range]) -> None:
    """Raises Changed for a range that extends beyond its object."""
    for url, version, offset, size in ranges:
        total, _ = split_version(version)
        if offset < 0 or size < 0 or offset + size > total:
            raise Changed(
                f"{redact_url(url)} at byte {offset}: expected {size} bytes, but the object has {total} bytes in total"
            )
