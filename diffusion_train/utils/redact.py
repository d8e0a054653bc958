"""Removes secrets from text: tokens, passwords, and the user, password and signature of URLs."""

from __future__ import annotations

import os
import re
from functools import cache

HIDDEN = "***"

# Words of a name, whose value is then a secret: db_password_prod, apiKeys.
_SECRET_WORDS = re.compile(
    r"(?:^|_)(?:pass|passw(?:or)?ds?|pwds?|pw|pass_?phrases?|pass_?codes?|signature|secrets?|credentials?|creds?"
    r"|authorization|auth|bearer|cookies?|sas"
    r"|(?:api|access|account|client|deploy|encryption|license|master|private|secret|shared|signing|ssh|storage)_?keys?)"
    r"(?:_|$)"
)
_TOKEN = re.compile(r"(?:^|_)tokens?(?:_|$)")
# The value is a secret unless the package declares a setting of this name, as `key` of a caption table.
_UNLESS_DECLARED = re.compile(r"(?:^|_)(?:key|sig|pin)(?:_|$)")
# Counts, words of a text encoder's vocabulary, and columns of tables: max_tokens, pad_token, token_dim, text_key.
_NO_SECRET = re.compile(
    r"(?:^|_)(?:num|n|max|min|total|per|new|vocab|pad|padding|eos|bos|unk|cls|sep|mask|placeholder|initializer|special"
    r"|class|added|extra|register|time|text|caption|image|label|sort|primary|foreign|cache)_(?:tokens?|key)(?:_|$)"
    r"|(?:^|_)(?:tokens?|key|pin)_(?:dim|size|count|length|len|limit|budget|type|mixer|dropout|pooling|embedding|memory"
    r"|frames?|names?|columns?)(?:_|$)"
)
_SHORTEST_NUMBER = 4  # digits and signs of a number that is a secret

# `name=value`, `name: value`, `"name": "value"` and `--name value`, up to the value.
_NAME = re.compile(
    r"""(?<![\w./?&;-])(?:(?P<quote>\\?["']|)(?P<name>[\w./-]+)(?P=quote)[ \t]*[:=][ \t]*|(?P<flag>--[\w-]+)[ \t]+)"""
)
_NOTHING = r"""(?!(?:null|none|true|false|\*\*\*)[\s,;}\])'"]*$)(?!['"]{2})"""
_QUOTED = r"""\\"(?:[^"\\]|\\[^"])*\\"|"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.|'')*'"""
_VALUE = re.compile(rf"{_NOTHING}(?:{_QUOTED}|[^\s].*)", re.IGNORECASE | re.MULTILINE)
_JSON_VALUE = re.compile(
    rf"{_NOTHING}(?!(?:null|none|true|false)\s*[,}}\]])(?:{_QUOTED}|[\[{{].*|[^\s,}}\]]+)", re.IGNORECASE | re.MULTILINE
)
_KNOWN_FORMS = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|(?:AKIA|ASIA)[A-Z0-9]{16}|gh[a-z]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|glpat-[\w-]{16,}"
    r"|sk-[A-Za-z0-9_-]{16,}|[rs]k_(?:live|test)_\w{10,}|xox[a-z]-[\w-]{10,}|AIza[\w-]{30,}|ya29\.[\w-]{16,}"
    r"|npm_\w{16,}|pypi-[\w-]{16,}|wandb_v\d+_[\w-]{16,}|local-[0-9a-f]{40}|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*)"
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
    return _without_named_values(_KNOWN_FORMS.sub(HIDDEN, redact_urls(text)))


def redact_number(number: float, named_secret: bool) -> float | str:
    """Return a number, or "***" if it equals a secret in the environment or is long and has the name of one."""
    text = str(number)
    hidden = text in environment_secrets() or (named_secret and len(text) >= _SHORTEST_NUMBER)
    return HIDDEN if hidden else number


def is_secret(name: str, declared: bool) -> bool:
    """Return whether the value of this name is a secret.

    `declared` says that the package may have a setting of this name: then the values of `key` and the like are not.
    """
    joined = "_".join(re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)).lower()
    if _SECRET_WORDS.search(joined):
        return True
    may_be = _TOKEN.search(joined) or (not declared and _UNLESS_DECLARED.search(joined))
    return bool(may_be) and not _NO_SECRET.search(joined)


@cache
def environment_secrets() -> tuple[str, ...]:
    """Return the values of environment variables with the name of a secret, longest first."""
    named = {name: value for name, value in os.environ.items() if is_secret(name, declared=False)}
    values = {value for name, value in named.items() if len(value) >= _SHORTEST_SECRET and name not in _FOLDERS}
    return tuple(sorted(values, key=len, reverse=True))


def _without_named_values(text: str) -> str:
    """Hide the values after names of secrets; a value without quotes ends with its line."""
    parts, end = [], 0
    for named in _NAME.finditer(text):
        name = re.split(r"[./]", named["name"] or named["flag"])[-1]
        if named.start() < end or not is_secret(name, declared=True):
            continue
        if value := (_JSON_VALUE if named["quote"] else _VALUE).match(text, named.end()):
            parts += [text[end : named.end()], named["quote"] or "", HIDDEN, named["quote"] or ""]
            end = value.end()
    return "".join([*parts, text[end:]])


def redact_urls(text: str) -> str:
    """Hide users and passwords of the URLs in a text, and query parameters that look like a signature."""
    text = _USER_INFO.sub(rf"\1{HIDDEN}@", text)
    return _PARAMETER.sub(lambda m: m[1] + HIDDEN if _SIGNED.search(m[2]) or is_secret(m[2], True) else m[0], text)


def redact_url(url: str) -> str:
    """Hide user, password and the whole query of one URL; local paths do not change."""
    return _QUERY.sub(f"?{HIDDEN}", _USER_INFO.sub(rf"\1{HIDDEN}@", url)) if _REMOTE.match(url) else url
