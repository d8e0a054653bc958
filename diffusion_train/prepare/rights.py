"""The author, source and licence of an image, read from the fields of its metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from diffusion_train.license import both, is_blank

# Names of the fields in which data sets store rights, the most specific first.
LICENSE_FIELDS = ("license", "licence", "license_url", "licence_url", "license_name", "rights", "usage_terms")
AUTHOR_FIELDS = ("author", "creator", "artist", "photographer", "attribution", "credit")
SOURCE_FIELDS = ("source", "source_url", "page_url", "url", "original_url")
_NAMES = ("spdx", "spdx_id", "identifier", "id", "name", "url", "text")  # in {"license": {"name": "MIT"}}


class Rights(NamedTuple):
    """Licence, author and source of a sample; "" if they are not given."""

    license: str = ""
    author: str = ""
    source: str = ""


NO_RIGHTS = Rights()


def rights_of(facts: Mapping[str, Any]) -> Rights:
    """Return the rights in a sample's metadata; the case of field names does not matter.

    A missing licence is "unknown". Several licences are joined by AND.
    """
    by_name = {str(name).casefold(): value for name, value in facts.items()}

    def first(names: Sequence[str]) -> list[str]:
        return next((texts for name in names if (texts := _texts(by_name.get(name)))), [])

    return Rights(both(*first(LICENSE_FIELDS)), ", ".join(first(AUTHOR_FIELDS)), ", ".join(first(SOURCE_FIELDS)))


def _texts(value: object) -> list[str]:
    """Return the texts of a field: a text, the items of a list, or the name in an object (its JSON without a name)."""
    if isinstance(value, list | tuple):
        return list(dict.fromkeys(text for item in value for text in _texts(item)))
    if isinstance(value, dict):
        by_name = {str(name).casefold(): inner for name, inner in value.items()}
        named = next((texts for name in _NAMES if (texts := _texts(by_name.get(name)))), [])
        return named or ([json.dumps(value)] if _texts(list(value.values())) else [])
    return [] if value is None or is_blank(str(value)) else [str(value).strip()]
