"""URLs without what opens them: user, password, signature."""

from __future__ import annotations

import re

HIDDEN = "***"

_USER_INFO = re.compile(r"\b([a-z][a-z0-9+.-]*://)[^/\s@'\"]+@", re.IGNORECASE)
_PARAMETER = re.compile(r"([?&;]([\w.-]+)=)[^&;#\s'\"]+")
_SIGNED = re.compile(r"x[-_]?(?:amz|goog|ms)|sig|token|key|secret|passw|auth|credential|policy", re.IGNORECASE)
_REMOTE = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_QUERY = re.compile(r"\?.*", re.DOTALL)


def redact_urls(text: str) -> str:
    """Any text; of a query only what looks like a signature is hidden."""
    text = _USER_INFO.sub(rf"\1{HIDDEN}@", text)
    return _PARAMETER.sub(lambda m: m[1] + HIDDEN if _SIGNED.search(m[2]) else m[0], text)


def redact_url(url: str) -> str:
    """One URL, whose query is hidden whole; paths stay as they are."""
    return _QUERY.sub(f"?{HIDDEN}", _USER_INFO.sub(rf"\1{HIDDEN}@", url)) if _REMOTE.match(url) else url
