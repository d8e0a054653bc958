"""What a user can do about shards that cannot be read."""

from __future__ import annotations

import os

from diffusion_train.data.storage.base import Denied, Missing, NoRanges, StorageError
from diffusion_train.data.storage.urls import scheme_of

_CREDENTIALS = {
    "s3": "AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (short-lived ones: AWS_SESSION_TOKEN too)",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, or `gcloud auth application-default login`",
}


def remedy(url: str, error: StorageError) -> str:
    """Return what the user can do about an error, for all URLs of the same scheme."""
    scheme = scheme_of(url)
    if scheme == "file":
        return _local(error)
    if isinstance(error, Denied):
        if scheme in _CREDENTIALS:
            return (
                f"{scheme}://: check that these credentials may read the bucket: "
                f"{_CREDENTIALS[scheme]}{_endpoint(scheme)}"
            )
        return (
            f"{scheme}://: give a signed URL that has not expired, "
            f"or {scheme}://user:password@host/ if the server asks for a password"
        )
    if isinstance(error, Missing):
        what = "bucket and name" if scheme in _CREDENTIALS else "the address"
        return f"{scheme}://: check {what} in data.shards{_endpoint(scheme)}"
    if isinstance(error, NoRanges):
        return (
            f"{scheme}://: check the address in data.shards; "
            "nginx, Apache and object stores support range requests, Python's http.server does not"
        )
    host = "" if scheme in _CREDENTIALS else "the host in data.shards, "
    return f"{scheme}://: check {host}the network, HTTPS_PROXY and NO_PROXY{_endpoint(scheme)}"


def _local(error: StorageError) -> str:
    if isinstance(error, Denied):
        return (
            "local files: the user that runs training needs permission to read them "
            "and to enter their folders (chmod, chown)"
        )
    if isinstance(error, Missing):
        return spelling()
    return "local files: data.shards must name tar files; for all tars of a folder give 'folder/*.tar'"


def spelling() -> str:
    return f"local files: check the spelling of data.shards; relative paths start in {os.getcwd()}"


def _endpoint(scheme: str) -> str:
    """Return which S3 endpoint and region are used, as the end of a message; "" for other schemes."""
    if scheme == "s3":
        named = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        return (
            f"; AWS_ENDPOINT_URL is {'set' if named else 'not set, so Amazon is used'}, and AWS_REGION sets the region"
        )
    return ""
