"""The supported URLs. Nothing else can be read: no commands, no environment variables."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

SCHEMES = ("file", "http", "https", "s3", "gs")
_SCHEME = re.compile(r"\s*(?:([A-Za-z][A-Za-z0-9+.-]*)://|(pipe):)", re.IGNORECASE)


def scheme_of(url: str) -> str:
    """Return the scheme of a URL, "file" for plain paths. Raises ValueError for a scheme that is not in SCHEMES."""
    match = _SCHEME.match(url)
    scheme = (match[1] or match[2]).lower() if match else "file"
    if scheme not in SCHEMES:
        remote = ", ".join(f"{scheme}://" for scheme in SCHEMES[1:])
        raise ValueError(f"unsupported URL scheme {scheme!r}; use a local path, {remote}")
    return scheme


def local_path(url: str) -> str:
    """Return the path of a plain path or file:// URL. Raises ValueError for a file on another host."""
    if not url.lower().startswith("file://"):
        return url
    host = urlsplit(url).netloc
    if host not in ("", "localhost"):
        raise ValueError(f"{url}: {host} is another host; write local files as file:///path")
    return unquote(url[len("file://") + len(host) :])


def is_local(url: str) -> bool:
    return ":" not in url or scheme_of(url) == "file"
