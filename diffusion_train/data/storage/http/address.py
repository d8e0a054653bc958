"""The address of a request for a URL: http(s):// unchanged, s3:// and gs:// as signed HTTPS; and its proxy."""

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
# characters that are not escaped in a URL; also percent signs, because otherwise a signature would not match any more
_PLAIN = "%/:?#[]@!$&'()*+,;=~"


class Address(NamedTuple):
    """Where and how to send a request: URL, headers, whether redirects are followed, and the proxy (None: none)."""

    url: str
    headers: dict[str, str]
    may_redirect: bool
    proxy: str | None


class AddressBook:
    """Returns the addresses of URLs. Credentials are loaded when a URL first needs them."""

    def __init__(self) -> None:
        self._signers: dict[str, Signer] = {}
        self._lock = threading.Lock()

    async def address(self, url: str, headers: dict[str, str]) -> Address:
        """Return the address of a URL.

        Raises ValueError for a wrong URL, Denied and TryAgainError if it cannot be signed.
        """
        if scheme_of(url) in ("http", "https"):
            quoted = _quoted(url)
            return Address(quoted, headers, True, _proxy(quoted))
        bucket, key = _bucket_and_key(url)
        # in a thread, because expired credentials are fetched again
        signed_url, headers = await asyncio.to_thread(self._signed, scheme_of(url), bucket, key, headers)
        return Address(signed_url, headers, False, _proxy(signed_url))

    def _signed(self, scheme: str, bucket: str, key: str, headers: dict[str, str]) -> tuple[str, dict[str, str]]:
        try:
            with self._lock:
                if scheme not in self._signers:
                    self._signers[scheme] = S3Signer() if scheme == "s3" else GoogleSigner()
                return self._signers[scheme].sign(bucket, key, headers)
        except Exception as error:  # noqa: BLE001 - its text may contain secrets
            kind = TryAgainError if may_pass(error) else Denied
            raise kind(f"the request cannot be signed ({type(error).__name__})") from None

    def hint(self, url: str) -> str:
        """Return what to do if access is denied, as the end of a message."""
        if signer := self._signers.get(scheme_of(url)):
            return "" if signer.has_credentials else f"; no credentials were found: {signer.remedy}"
        return "; a signed URL may have expired" if "?" in url else ""


def _bucket_and_key(url: str) -> tuple[str, str]:
    bucket, _, key = url.partition("://")[2].partition("/")
    if not _BUCKET.fullmatch(bucket) or not key or not key.isprintable():
        raise ValueError(
            f"{redact_url(url)!r}: must be {scheme_of(url)}://bucket/name; credentials come from the environment"
        )
    return bucket, key


@lru_cache(65536)
def _quoted(url: str) -> str:
    """Escape the characters that are not allowed in a request; all others stay unchanged."""
    try:
        parts = urlsplit(url)
        is_valid = parts.hostname and parts.hostname.encode("idna") and parts.port != 0 and url.isprintable()
    except ValueError:
        is_valid = False
    if not is_valid:
        raise ValueError(f"{redact_url(url)!r}: is not a valid URL")
    return urlunsplit((parts.scheme, parts.netloc, quote(parts.path, _PLAIN), quote(parts.query, _PLAIN), ""))


@lru_cache(65536)
def _proxy(url: str) -> str | None:
    """Return the proxy for a URL by HTTPS_PROXY, NO_PROXY and similar variables, or None."""
    parts = urlsplit(url)
    return None if proxy_bypass(parts.netloc.rpartition("@")[2]) else getproxies().get(parts.scheme)
