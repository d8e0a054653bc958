"""The author, source and licence of an image, read from the fields of its metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from diffusion_train.license import both, is_blank
from diffusion_train.owned_license import copyright_owner
from diffusion_train.validity import EXPIRY_FIELDS, PEOPLE_FIELDS, RELEASE_FIELDS

# Names of the fields in which data sets store rights, the most specific first.
LICENSE_FIELDS = ("license", "licence", "license_url", "licence_url", "license_name", "rights", "usage_terms")
AUTHOR_FIELDS = ("author", "creator", "artist", "photographer", "attribution", "credit")
OWNER_FIELDS = ("owner", "rights_holder", "copyright_holder", "copyright", "copyright_notice")
SOURCE_FIELDS = ("source", "source_url", "page_url", "url", "original_url")
_NAMES = ("spdx", "spdx_id", "identifier", "id", "name", "url", "text")  # in {"license": {"name": "MIT"}}


class Rights(NamedTuple):
    """The rights of a sample, by their names in its JSON; "" if they are not given.

    `license_expires` is the last day of the licence, `people` whether or whom the image shows, and `model_release` whether
    these people have agreed, or the number of their agreement.
    """

    license: str = ""
    author: str = ""
    source: str = ""
    owner: str = ""
    license_expires: str = ""
    people: str = ""
    model_release: str = ""


NO_RIGHTS = Rights()


def rights_of(facts: Mapping[str, Any]) -> Rights:
    """Return the rights in a sample's metadata; the case of field names does not matter.

    A missing licence is "unknown". Several licences are joined by AND.
    """
    by_name = {str(name).casefold(): value for name, value in facts.items()}

    def first(names: Sequence[str]) -> list[str]:
        return next((texts for name in names if (texts := _texts(by_name.get(name)))), [])

    licenses, owners = first(LICENSE_FIELDS), first(OWNER_FIELDS)
    owners = [copyright_owner(text) or text for text in owners] or list(filter(None, map(copyright_owner, licenses)))
    others = (AUTHOR_FIELDS, SOURCE_FIELDS, owners, EXPIRY_FIELDS, PEOPLE_FIELDS, RELEASE_FIELDS)
    texts = (", ".join(names if names is owners else first(names)) for names in others)
    return Rights(both(*licenses), *texts)


def _texts(value: object) -> list[str]:
    """Return the texts of a field: a text, the items of a list, or the name in an object (its JSON without a name)."""
    if isinstance(value, list | tuple):
        return list(dict.fromkeys(text for item in value for text in _texts(item)))
    if isinstance(value, dict):
        by_name = {str(name).casefold(): inner for name, inner in value.items()}
        named = next((texts for name in _NAMES if (texts := _texts(by_name.get(name)))), [])
        return named or ([json.dumps(value)] if _texts(list(value.values())) else [])
    return [] if value is None or is_blank(str(value)) else [str(value).strip()]
