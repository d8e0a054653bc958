"""Turn names of any files into keys that every reader of shards understands in the same way."""

from __future__ import annotations

import hashlib
import unicodedata

MAX_BYTES = 120
_JOINERS = "\u200c\u200d"  # format characters that words and emoji need; the others can hide or reorder text


class Keys:
    """Returns a unique key for each name in turn: the name itself if it is safe.

    A key has no dots, control characters or empty parts, does not leave its folder and has at most MAX_BYTES bytes of
    UTF-8. If a key is used already or must be cut, a hash of the name is added.
    """

    def __init__(self) -> None:
        self._used: set[str] = set()

    def __call__(self, name: str) -> str:
        plain = key = safe(name)
        again = 0
        while len(key.encode()) > MAX_BYTES or key in self._used:
            key = _with_hash(plain, f"{name}\0{again}")
            again += 1
        self._used.add(key)
        return key


def safe(name: str) -> str:
    """Return a name without dots, control characters and empty parts; "sample" if nothing is left."""
    parts = unicodedata.normalize("NFC", name).replace("\\", "/").split("/")
    cleaned = ("".join(map(_safe_character, part)).strip() for part in parts if part.strip("."))
    return "/".join(part for part in cleaned if part) or "sample"


def _safe_character(character: str) -> str:
    is_unsafe = character == "." or (unicodedata.category(character) in _UNSAFE and character not in _JOINERS)
    return "_" if is_unsafe else character


_UNSAFE = ("Cc", "Cf", "Cs", "Zl", "Zp")


def _with_hash(plain: str, text: str) -> str:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
    return plain.encode()[: MAX_BYTES - 9].decode(errors="ignore") + "-" + digest
