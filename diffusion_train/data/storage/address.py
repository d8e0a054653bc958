"""Where to ask for a URL, and with which signature: s3:// and gs:// are HTTPS with credentials of the environment.

No credential leaves this file but in the headers of a request.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

from diffusion_train.data.storage.answer import TryAgainError
from diffusion_train.data.storage.base import Denied
from diffusion_train.data.storage.urls import scheme_of
from diffusion_train.utils.redact import redact_url

_READ_ONLY = "https://www.googleapis.com/auth/devstorage.read_only"
_ANYWHERE = "https://storage.googleapis.com"
# what a URL may hold as it is; percent signs too, or a signature would not fit any more
_PLAIN = "%/:?#[]@!$&'()*+,;=~"


class Address(NamedTuple):
    url: str
    headers: dict[str, str]
    may_redirect: bool
    proxy: str | None


class Addresses:
    """Credentials are looked for when the first URL needs them."""

    def __init__(self) -> None:
        self._stores: dict[str, _S3 | _GS] = {}
        self._lock = threading.Lock()

    async def of(self, url: str, headers: dict[str, str]) -> Address:
        """Raises ValueError, Denied, TryAgainError."""
        if scheme_of(url) in ("http", "https"):
            place = _quoted(url)
            return Address(place, headers, True, _proxy(place))
        bucket, key = _bucket_and_key(url)
        # in a thread: short-lived credentials are fetched where they have run out
        place, headers = await asyncio.to_thread(self._signed, scheme_of(url), bucket, key, headers)
        return Address(place, headers, False, _proxy(place))

    def _signed(self, scheme: str, bucket: str, key: str, headers: dict[str, str]) -> tuple[str, dict[str, str]]:
        try:
            with self._lock:
                if scheme not in self._stores:
                    self._stores[scheme] = _S3() if scheme == "s3" else _GS()
                return self._stores[scheme].sign(bucket, key, headers)
        except Exception as error:  # noqa: BLE001 - nobody vouches that its text holds no secret
            kind = TryAgainError if _may_pass(error) else Denied
            raise kind(f"the request cannot be signed ({type(error).__name__})") from None

    def hint(self, url: str) -> str:
        """What to do where access is denied."""
        store = self._stores.get(scheme_of(url))
        if store:
            return "" if store.credentials else f"; no credentials were found: {store.remedy}"
        return "; a signed URL may have expired" if "?" in url else ""


class _S3:
    """botocore says where and signs; AWS_ENDPOINT_URL, AWS_PROFILE and all that it knows apply. Or anonymous."""

    remedy = "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"

    def __init__(self) -> None:
        import botocore.session
        from botocore import UNSIGNED
        from botocore.config import Config

        logging.getLogger("botocore.auth").setLevel(logging.INFO)  # below that it shows session tokens
        session = botocore.session.get_session()
        region = session.get_config_variable("region") or os.environ.get("AWS_REGION") or "us-east-1"
        self.credentials: Any = session.get_credentials()
        client = session.create_client("s3", region_name=region, config=Config(signature_version=UNSIGNED))
        self._region = client.meta.region_name
        self._url = lru_cache(65536)(
            lambda bucket, key: client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": key})
        )

    def sign(self, bucket: str, key: str, headers: dict[str, str]) -> tuple[str, dict[str, str]]:
        from botocore.auth import S3SigV4Auth
        from botocore.awsrequest import AWSRequest

        url = self._url(bucket, key)
        if not self.credentials:
            return url, headers
        request = AWSRequest("GET", url, headers=headers)
        S3SigV4Auth(self.credentials.get_frozen_credentials(), "s3", self._region).add_auth(request)
        return url, dict(request.headers)


class _GS:
    """Google's default credentials, or none: public buckets need none."""

    remedy = "set GOOGLE_APPLICATION_CREDENTIALS"

    def __init__(self) -> None:
        import google.auth
        from google.auth.exceptions import DefaultCredentialsError

        self._endpoint = os.environ.get("STORAGE_EMULATOR_HOST", _ANYWHERE).rstrip("/")
        self.credentials: Any = None
        try:
            self.credentials, _ = google.auth.default(scopes=[_READ_ONLY])
        except DefaultCredentialsError:
            if "GOOGLE_APPLICATION_CREDENTIALS" in os.environ:
                raise

    def sign(self, bucket: str, key: str, headers: dict[str, str]) -> tuple[str, dict[str, str]]:
        url = f"{self._endpoint}/{bucket}/{quote(key, safe='/~')}"
        headers = dict(headers)
        if self.credentials:
            from google.auth.transport.requests import Request

            self.credentials.before_request(Request(), "GET", url, headers)
        return url, headers


def _may_pass(error: Exception) -> bool:
    """Google marks what is worth another attempt; botocore has a kind for trouble on the way."""
    return getattr(error, "retryable", False) or any(kind.__name__ == "HTTPClientError" for kind in type(error).__mro__)


def _bucket_and_key(url: str) -> tuple[str, str]:
    bucket, _, key = url.partition("://")[2].partition("/")
    if not bucket or not key or "@" in bucket:
        raise ValueError(
            f"{redact_url(url)}: write {scheme_of(url)}://bucket/name; credentials come from the environment"
        )
    return bucket, key


@lru_cache(65536)
def _quoted(url: str) -> str:
    """What may not stand in a request is escaped, all else stays byte for byte."""
    try:
        parts = urlsplit(url)
        whole = parts.hostname and parts.port != 0 and url.isprintable()
    except ValueError:
        whole = False
    if not whole:
        raise ValueError(f"{redact_url(url)!r}: is no URL")
    return urlunsplit((parts.scheme, parts.netloc, quote(parts.path, _PLAIN), quote(parts.query, _PLAIN), ""))


def _proxy(url: str) -> str | None:
    parts = urlsplit(url)
    return _proxy_of_host(parts.scheme, parts.netloc.rpartition("@")[2])


@lru_cache(1024)
def _proxy_of_host(scheme: str, host: str) -> str | None:
    """HTTPS_PROXY, NO_PROXY and their like."""
    return None if proxy_bypass(host) else getproxies().get(scheme)
