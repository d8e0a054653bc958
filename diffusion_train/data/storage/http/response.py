"""What a server's response to a request for a range of bytes means (RFC 9110, sections 13 to 15)."""

from __future__ import annotations

import re
from collections.abc import Mapping

from diffusion_train.data.storage.base import Changed, Denied, Missing, NoRanges, StorageError, make_version

_TEMPORARY = (408, 425, 429, 500, 502, 503, 504)
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_CODE = re.compile(rb"<Code>(\w{1,60})</Code>")
_OF_CREDENTIALS = re.compile("Token|Expired|Authorization|AccessKey|Signature|TooSkewed")


class TryAgainError(Exception):
    """A temporary error; `after` is the number of seconds that the server asks to wait, or 0."""

    def __init__(self, reason: str, after: float = 0.0) -> None:
        super().__init__(reason)
        self.after = after


def refusal(status: int, headers: Mapping[str, str], body: bytes) -> Exception:
    """Return the error for a response other than 206; its message does not contain the URL."""
    code = match[1].decode() if (match := _CODE.search(body)) else ""
    said = f"server returned {status} {code}".rstrip()
    if status in _TEMPORARY or code in ("RequestTimeout", "SlowDown"):
        return TryAgainError(said, _seconds(headers.get("Retry-After", "")))
    if status in (401, 403, 407) or (status == 400 and _OF_CREDENTIALS.search(code)):
        return Denied(f"access is denied: {said}")
    if status in (404, 410):
        return Missing(f"no such object: {said}")
    if status in (412, 416):
        return Changed("changed since it was indexed; restart to index it again")
    if 300 <= status < 400:
        region = headers.get("x-amz-bucket-region")
        elsewhere = "the server redirects to another address; check the region and the endpoint of the bucket"
        return StorageError(f"{said}: {f'set AWS_DEFAULT_REGION={region}' if region else elsewhere}")
    if 200 <= status < 300:
        kind = headers.get("Content-Type", "something")
        return NoRanges(f"{said} and the whole object ({kind}): it does not support range requests")
    return StorageError(said)


def empty_version(status: int, headers: Mapping[str, str]) -> str | None:
    """Return the version of an empty object, which has no range to request; None for any other response."""
    refused = status == 416 and headers.get("Content-Range") == "bytes */0"
    sent = status == 200 and headers.get("Content-Length") == "0"
    return _version(0, headers) if refused or sent else None


def content_range(headers: Mapping[str, str]) -> tuple[int, int, str]:
    """Return (start, end, version of the object) of a response; `end` is exclusive. Raises StorageError."""
    text = headers.get("Content-Range", "")
    match = _CONTENT_RANGE.fullmatch(text.strip())
    if not match or headers.get("Content-Encoding", "identity") != "identity":
        raise StorageError(f"the server does not say which bytes it sends (Content-Range: {text[:80]!r})")
    return int(match[1]), int(match[2]) + 1, _version(int(match[3]), headers)


def _version(size: int, headers: Mapping[str, str]) -> str:
    return make_version(size, headers.get("ETag") or headers.get("Last-Modified") or "")


def _seconds(text: str) -> float:
    return float(text) if text.isascii() and text.isdigit() else 0.0
