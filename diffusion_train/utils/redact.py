"""Removes secrets from text: tokens, passwords, and the user, password and signature of URLs."""

from __future__ import annotations

import os
import re
from functools import cache

HIDDEN = "***"

# Names whose value is a secret when it is text: the last words of a key such as hub_token or wandbApiKey.
_SECRET_NAME = re.compile(
    r"(?:^|_)(?:tokens?|pass(?:w(?:or)?d)?|pwd|passphrase|signature|secrets?|api_?key|access_?key(?:_id)?|secret_?key|private_?key"
    r"|account_key|authorization|auth|credentials?|bearer|cookie|sas)$"
)
# Names whose value is a secret even if it is a number.
_SECRET_NUMBER = re.compile(r"(?:^|_)(?:pass(?:w(?:or)?d)?|pwd|passphrase|pin|secret)$")
# Names whose value is a secret unless the package declares a setting of this name, as `key` of a caption table.
_UNLESS_DECLARED = re.compile(r"(?:^|_)(?:key|sig|pin)$")
# Tokens of a text encoder's vocabulary are not secret.
_VOCABULARY = re.compile(r"(?:^|_)(?:pad|eos|bos|unk|cls|sep|mask|placeholder|initializer|special|class)_tokens?$")

_ASSIGNMENT = re.compile(r"(?<![\w?&;])([+~]{0,2}([\w./-]+)=)(?!\*\*\*)(\S.*)", re.DOTALL)
_KNOWN_FORMS = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|(?:AKIA|ASIA)[A-Z0-9]{16}|gh[a-z]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|glpat-[\w-]{16,}"
    r"|sk-[A-Za-z0-9_-]{16,}|xox[a-z]-[\w-]{10,}|AIza[\w-]{30,}|ya29\.[\w-]{16,}|npm_\w{16,}|pypi-[\w-]{16,}"
    r"|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*)"
    r"|(?<=Bearer )\S+|(?<=Basic )\S+"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    re.DOTALL,
)
_FOLDERS = {"PWD", "OLDPWD"}  # which a shell sets
_SHORTEST_SECRET = 8  # of the environment: shorter values are words that also occur elsewhere

_USER_INFO = re.compile(r"\b([a-z][a-z0-9+.-]*://)[^/\s@'\"]+@", re.IGNORECASE)
_PARAMETER = re.compile(r"([?&;]([\w.-]+)=)[^&;#\s'\"]+")
_SIGNED = re.compile(r"x[-_]?(?:amz|goog|ms)|sig|token|key|secret|passw|auth|credential|policy", re.IGNORECASE)
_REMOTE = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_QUERY = re.compile(r"\?.*", re.DOTALL)


def redact_text(text: str) -> str:
    """Return text without secrets: `hub_token=abc` becomes `hub_token=***`, and signed URLs lose their signature."""
    for secret in environment_secrets():
        text = text.replace(secret, HIDDEN)
    text = _KNOWN_FORMS.sub(HIDDEN, redact_urls(text))
    return _ASSIGNMENT.sub(lambda m: m[1] + HIDDEN if is_secret(re.split(r"[./]", m[2])[-1]) else m[0], text)


def is_secret(name: str, declared: bool = True, number: bool = False) -> bool:
    """Return whether the value of this name, text or a number, is a secret.

    `declared` says that the package has a setting of this name: then the values of `key` and the like are not secrets.
    """
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).replace("-", "_").lower()
    if not declared and _UNLESS_DECLARED.search(snake):
        return True
    return bool((_SECRET_NUMBER if number else _SECRET_NAME).search(snake)) and not _VOCABULARY.search(snake)


@cache
def environment_secrets() -> tuple[str, ...]:
    """Return the values of environment variables with the name of a secret, longest first."""
    secrets = {name: value for name, value in os.environ.items() if is_secret(name) and name not in _FOLDERS}
    values = {value for value in secrets.values() if len(value) >= _SHORTEST_SECRET}
    return tuple(sorted(values, key=len, reverse=True))


def redact_urls(text: str) -> str:
    """Hide users and passwords of the URLs in a text, and query parameters that look like a signature."""
    text = _USER_INFO.sub(rf"\1{HIDDEN}@", text)
    return _PARAMETER.sub(lambda m: m[1] + HIDDEN if _SIGNED.search(m[2]) else m[0], text)


def redact_url(url: str) -> str:
    """Hide user, password and the whole query of one URL; local paths do not change."""
    return _QUERY.sub(f"?{HIDDEN}", _USER_INFO.sub(rf"\1{HIDDEN}@", url)) if _REMOTE.match(url) else url
