"""Removes secrets from text: tokens, passwords, and the user, password and signature of URLs."""

from __future__ import annotations

import re

HIDDEN = "***"

# Names whose value is a secret when it is text: the last words of a key such as hub_token or wandbApiKey.
_SECRET_NAME = re.compile(
    r"(?:^|_)(?:tokens?|passw(?:or)?d|pwd|passphrase|secrets?|api_?key|access_?key(?:_id)?|secret_?key|private_?key"
    r"|account_key|authorization|auth|credentials?|bearer|cookie|sas)$"
)
# Tokens of a text encoder's vocabulary are not secret.
_VOCABULARY = re.compile(r"(?:^|_)(?:pad|eos|bos|unk|cls|sep|mask|placeholder|initializer|special|class)_tokens?$")

_ASSIGNMENT = re.compile(r"(?<![\w?&;])([+~]{0,2}([\w./-]+)=)(?!\*\*\*)(\S.*)", re.DOTALL)
_KNOWN_FORMS = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|(?:AKIA|ASIA)[A-Z0-9]{16}|gh[a-z]_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,})"
    r"|(?<=Bearer )\S+|(?<=Basic )\S+"
)

_USER_INFO = re.compile(r"\b([a-z][a-z0-9+.-]*://)[^/\s@'\"]+@", re.IGNORECASE)
_PARAMETER = re.compile(r"([?&;]([\w.-]+)=)[^&;#\s'\"]+")
_SIGNED = re.compile(r"x[-_]?(?:amz|goog|ms)|sig|token|key|secret|passw|auth|credential|policy", re.IGNORECASE)
_REMOTE = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_QUERY = re.compile(r"\?.*", re.DOTALL)


def redact_text(text: str) -> str:
    """Return text without secrets: `hub_token=abc` becomes `hub_token=***`, and signed URLs lose their signature."""
    text = _KNOWN_FORMS.sub(HIDDEN, redact_urls(text))
    return _ASSIGNMENT.sub(lambda m: m[1] + HIDDEN if is_secret(re.split(r"[./]", m[2])[-1]) else m[0], text)


def is_secret(name: str) -> bool:
    """Return whether the value of this name is a secret."""
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).replace("-", "_").lower()
    return bool(_SECRET_NAME.search(snake)) and not _VOCABULARY.search(snake)


def redact_urls(text: str) -> str:
    """Hide users and passwords of the URLs in a text, and query parameters that look like a signature."""
    text = _USER_INFO.sub(rf"\1{HIDDEN}@", text)
    return _PARAMETER.sub(lambda m: m[1] + HIDDEN if _SIGNED.search(m[2]) else m[0], text)


def redact_url(url: str) -> str:
    """Hide user, password and the whole query of one URL; local paths do not change."""
    return _QUERY.sub(f"?{HIDDEN}", _USER_INFO.sub(rf"\1{HIDDEN}@", url)) if _REMOTE.match(url) else url
