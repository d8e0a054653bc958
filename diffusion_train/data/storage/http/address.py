"""Where a URL is asked for: http(s):// as it is, s3:// and gs:// as signed HTTPS, and through which proxy."""

from __future__ import annotations

import asyncio
import re
import threading
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote, urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

from diffusion_train.data.storage.base import Denied
from diffusion_train.data.storage.http.response import TryAgainError
from diffusion_train.data.storage.http.signer import GoogleSigner, S3Signer, Signer, may_pass
from diffusion_train.data.storage.urls import scheme_of
from diffusion_train.utils.redact import redact_url

_BUCKET = re.compile(r"[A-Za-z0-9._-]+")
# what a URL may hold as it is; percent signs too, or a signature would not fit any more
_PLAIN = "%/:?#[]@!$&'()*+,;=~"


class Address(NamedTuple):
    url: str
    headers: dict[str, str]
    may_redirect: bool
    proxy: str | None


class AddressBook:
    """Looks for credentials when the first URL needs them."""

    def __init__(self) -> None:
        self._signers: dict[str, Signer] = {}
        self._lock = threading.Lock()

    async def address(self, url: str, headers: dict[str, str]) -> Address:
        """Raises ValueError, Denied, TryAgainError."""
        if scheme_of(url) in ("http", "https"):
            quoted = _quoted(url)
            return Address(quoted, headers, True, _proxy(quoted))
        bucket, key = _bucket_and_key(url)
        # in a thread: short-lived credentials are fetched where they have run out
        signed_url, headers = await asyncio.to_thread(self._signed, scheme_of(url), bucket, key, headers)
        return Address(signed_url, headers, False, _proxy(signed_url))

    def _signed(self, scheme: str, bucket: str, key: str, headers: dict[str, str]) -> tuple[str, dict[str, str]]:
        try:
            with self._lock:
                if scheme not in self._signers:
                    self._signers[scheme] = S3Signer() if scheme == "s3" else GoogleSigner()
                return self._signers[scheme].sign(bucket, key, headers)
        except Exception as error:  # noqa: BLE001 - nobody vouches that its text holds no secret
            kind = TryAgainError if may_pass(error) else Denied
            raise kind(f"the request cannot be signed ({type(error).__name__})") from None

    def hint(self, url: str) -> str:
        """What to do where access is denied."""
        if signer := self._signers.get(scheme_of(url)):
            return "" if signer.has_credentials else f"; no credentials were found: {signer.remedy}"
        return "; a signed URL may have expired" if "?" in url else ""


def _bucket_and_key(url: str) -> tuple[str, str]:
    bucket, _, key = url.partition("://")[2].partition("/")
    if not _BUCKET.fullmatch(bucket) or not key or not key.isprintable():
        raise ValueError(
            f"{redact_url(url)!r}: write {scheme_of(url)}://bucket/name; credentials come from the environment"
        )
    return bucket, key


@lru_cache(65536)
def _quoted(url: str) -> str:
    """What may not stand in a request is escaped, all else stays byte for byte."""
    try:
        parts = urlsplit(url)
        is_valid = parts.hostname and parts.hostname.encode("idna") and parts.port != 0 and url.isprintable()
    except ValueError:
        is_valid = False
    if not is_valid:
        raise ValueError(f"{redact_url(url)!r}: is no URL")
    return urlunsplit((parts.scheme, parts.netloc, quote(parts.path, _PLAIN), quote(parts.query, _PLAIN), ""))


@lru_cache(65536)
def _proxy(url: str) -> str | None:
    """HTTPS_PROXY, NO_PROXY and their like."""
    parts = urlsplit(url)
    return None if proxy_bypass(parts.netloc.rpartition("@")[2]) else getproxies().get(parts.scheme)
