"""Sign requests for s3:// and gs://: HTTPS URLs, and headers signed with credentials of the environment.

Credentials leave this file only in the headers of a request.
"""

from __future__ import annotations

import logging
import os
from functools import lru_cache
from typing import Any, Protocol
from urllib.parse import quote

_READ_ONLY = "https://www.googleapis.com/auth/devstorage.read_only"
_GOOGLE = "https://storage.googleapis.com"


class Signer(Protocol):
    """Signs requests. Without credentials access is anonymous, and `remedy` says what to set."""

    remedy: str
    has_credentials: bool

    def sign(self, bucket: str, key: str, headers: dict[str, str]) -> tuple[str, dict[str, str]]:
        """Return the URL of the object and the headers of a GET request."""


class S3Signer:
    """Signs with botocore, which also finds the endpoint: settings such as AWS_ENDPOINT_URL and AWS_PROFILE apply."""

    remedy = "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"

    def __init__(self) -> None:
        import botocore.session
        from botocore import UNSIGNED
        from botocore.config import Config

        logging.getLogger("botocore.auth").setLevel(logging.INFO)  # DEBUG messages contain session tokens
        session = botocore.session.get_session()
        region = session.get_config_variable("region") or os.environ.get("AWS_REGION") or "us-east-1"
        self._credentials: Any = session.get_credentials()
        self.has_credentials = bool(self._credentials)
        client = session.create_client("s3", region_name=region, config=Config(signature_version=UNSIGNED))
        self._region = client.meta.region_name
        self._url = lru_cache(65536)(
            lambda bucket, key: client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": key})
        )

    def sign(self, bucket: str, key: str, headers: dict[str, str]) -> tuple[str, dict[str, str]]:
        from botocore.auth import S3SigV4Auth
        from botocore.awsrequest import AWSRequest

        url: str = self._url(bucket, key)
        if not self._credentials:
            return url, headers
        request = AWSRequest("GET", url, headers=headers)
        S3SigV4Auth(self._credentials.get_frozen_credentials(), "s3", self._region).add_auth(request)
        return url, dict(request.headers)


class GoogleSigner:
    """Signs with Google's default credentials; without any, access is anonymous, as for public buckets."""

    remedy = "set GOOGLE_APPLICATION_CREDENTIALS"

    def __init__(self) -> None:
        import google.auth
        from google.auth.exceptions import DefaultCredentialsError

        self._endpoint = os.environ.get("STORAGE_EMULATOR_HOST", _GOOGLE).rstrip("/")
        self._credentials: Any = None
        try:
            self._credentials, _ = google.auth.default(scopes=[_READ_ONLY])
        except DefaultCredentialsError:
            if "GOOGLE_APPLICATION_CREDENTIALS" in os.environ:
                raise
        self.has_credentials = bool(self._credentials)

    def sign(self, bucket: str, key: str, headers: dict[str, str]) -> tuple[str, dict[str, str]]:
        url = f"{self._endpoint}/{bucket}/{quote(key, safe='/~')}"
        headers = dict(headers)
        if self._credentials:
            from google.auth.transport.requests import Request

            self._credentials.before_request(Request(), "GET", url, headers)
        return url, headers


def may_pass(error: Exception) -> bool:
    """Whether an error may be temporary: Google marks it as retryable, botocore raises HTTPClientError."""
    return getattr(error, "retryable", False) or any(kind.__name__ == "HTTPClientError" for kind in type(error).__mro__)
