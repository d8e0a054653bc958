"""The contract of storage: ranges of bytes of objects that never change unnoticed, and the errors.

The way of a read, each line calling the next:

    StorageByScheme.begin / read     by_scheme.py     splits the ranges into local and remote ones
      LocalStorage.read              local.py         files of this machine
      CachedStorage.read             cached.py        where a cache folder is set; what it lacks is read from RemoteStorage
        BlockFiles                   blocks.py        the files of the cache
      RemoteStorage.request / read   remote.py        one request for neighbours (coalesce.py), all at once
        RangeRequest.send            http/request.py  one request with its retries, resumed from the byte reached
          AddressBook.address        http/address.py  the URL, signed (http/signer.py), and its proxy
          refusal, content_range     http/response.py what the response means

`StorageByScheme.prefetch` calls `CachedStorage.fill`, whose Prefetcher (prefetch.py) fetches blocks in the background.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from diffusion_train.utils.redact import redact_url


class Stat(NamedTuple):
    """`version` is another text for every other state of the object; see `make_version`."""

    size: int
    version: str


class Range(NamedTuple):
    """`size` bytes from `offset` on, of the object as it was when `stat` said `version`."""

    url: str
    version: str
    offset: int
    size: int


class StorageError(RuntimeError):
    """Bytes that could not be had. Messages name the URL without credentials."""


class Missing(StorageError):
    """There is no such object."""


class Denied(StorageError):
    """The object may not be read with the credentials at hand."""


class Changed(StorageError):
    """The object is no longer the one that was asked for."""


class NoRanges(StorageError):
    """The server gives whole objects only."""


class Storage(Protocol):
    """Usable from several threads, after a fork, and pickled: settings alone travel.

    ValueError for a URL that cannot be read anywhere, StorageError for all else.
    """

    def stat(self, url: str) -> Stat: ...

    def read(self, ranges: Sequence[Range]) -> list[bytes]:
        """The bytes of every range, in order. One call for all ranges of a batch lets neighbours share a request."""


def make_version(size: int, validator: str | int) -> str:
    """`validator` is what the store offers: a time of change, an ETag, or "", where the size alone is compared."""
    return f"{size}:{validator}"


def split_version(version: str) -> tuple[int, str]:
    """(size, validator)"""
    size, _, validator = version.partition(":")
    return int(size), validator


def check_inside(ranges: Sequence[Range]) -> None:
    """Raises Changed for a range that goes beyond its object."""
    for url, version, offset, size in ranges:
        total, _ = split_version(version)
        if offset < 0 or size < 0 or offset + size > total:
            raise Changed(f"{redact_url(url)} at byte {offset}: {size} bytes wanted of {total} in all")
