"""The rights of an image, read from the fields of its metadata and written back under their own names."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from diffusion_train.rights.license import UNKNOWN, both, is_blank, is_empty, normalise
from diffusion_train.rights.owned_license import copyright_owner
from diffusion_train.rights.validity import EXPIRY_FIELDS, PEOPLE_FIELDS, RELEASE_FIELDS, iso_date
from diffusion_train.utils.text import clean_text

# Names of the fields in which data sets store rights, the most specific first.
LICENSE_FIELDS = ("license", "licence", "license_url", "licence_url", "license_name", "rights", "usage_terms")
AUTHOR_FIELDS = ("author", "creator", "artist", "photographer", "attribution", "credit")
OWNER_FIELDS = ("owner", "rights_holder", "copyright_holder", "copyright", "copyright_notice")
SOURCE_FIELDS = ("source", "source_url", "page_url", "url", "original_url")
_NAMES = ("spdx", "spdx_id", "identifier", "id", "name", "url", "text")  # in {"license": {"name": "MIT"}}


class Rights(NamedTuple):
    """The rights of a sample, by their names in its JSON; "" if they are not given.

    `license_expires` is the last day of the licence, `people` whether or whom the image shows, and `model_release`
    whether these people have agreed, or the number of their agreement.
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

    def first(names: Sequence[str], is_nothing: Callable[[str], bool] = is_blank) -> list[str]:
        return next((texts for name in names if (texts := _texts(by_name.get(name), is_nothing))), [])

    licenses, owners = first(LICENSE_FIELDS), first(OWNER_FIELDS)
    owners = [copyright_owner(text) or text for text in owners] or list(filter(None, map(copyright_owner, licenses)))
    texts = [first(AUTHOR_FIELDS), first(SOURCE_FIELDS), owners]
    texts += [first(names, is_empty) for names in (EXPIRY_FIELDS, PEOPLE_FIELDS, RELEASE_FIELDS)]  # "none" means no
    return Rights(both(*licenses), *map(", ".join, texts))


def with_rights(facts: dict[str, Any], default: Rights = NO_RIGHTS) -> dict[str, Any]:
    """Return metadata as plain JSON with the fields of Rights: the SPDX name in `license`, the author in `author`, ...

    A field is missing if nothing is known. An earlier value that differs is kept in `license_text` and so on.
    """
    plain: dict[str, Any] = _plain(facts)
    found = rights_of(plain)
    license = found.license if found.license != UNKNOWN else normalise(default.license)
    said = {name: getattr(found, name) or getattr(default, name) for name in Rights._fields}
    said |= {"license": "" if license == UNKNOWN else license, "license_expires": iso_date(said["license_expires"])}
    for name, value in said.items():
        before = plain.pop(name, None)
        if before not in (None, "") and str(before) != value:
            plain[f"{name}_text"] = before
        if value:
            plain[name] = value
    return plain


def _texts(value: object, is_nothing: Callable[[str], bool] = is_blank) -> list[str]:
    """Return the texts of a field: a text, the items of a list, or the name in an object (its JSON without a name)."""
    if isinstance(value, list | tuple):
        return list(dict.fromkeys(text for item in value for text in _texts(item, is_nothing)))
    if isinstance(value, dict):
        by_name = {str(name).casefold(): inner for name, inner in value.items()}
        named = next((texts for name in _NAMES if (texts := _texts(by_name.get(name), is_nothing))), [])
        return named or ([json.dumps(value)] if _texts(list(value.values()), is_nothing) else [])
    return [] if value is None or is_nothing(str(value)) else [str(value).strip()]


def _plain(value: Any) -> Any:
    """Convert to portable JSON: dates and the like become text, NaN and infinity null, and bytes are dropped."""
    if isinstance(value, dict):
        return {clean_text(str(name)): _plain(inner) for name, inner in value.items() if not isinstance(inner, bytes)}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return clean_text(str(value))
