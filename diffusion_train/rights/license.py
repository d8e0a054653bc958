"""Licences of images: their SPDX names (https://spdx.org/licenses), their terms, and whether they are allowed.

Nothing here is legal advice: a licence is what somebody wrote beside an image.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from license_expression import Licensing
from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from diffusion_train.rights.owned_license import is_owned, owned, owned_terms

UNKNOWN = "unknown"
PUBLIC_DOMAIN = "LicenseRef-Public-Domain"
MEANING = {  # of the terms of a licence
    "share-alike": "changed versions may only be passed on under the same licence",
    "non-commercial": "no commercial use",
    "no-derivatives": "changed versions may not be passed on",
    "use-restricted": "the licence lists uses that are forbidden",
    "stock": "a contract with a stock agency: most forbid training, so the contract must allow it",
    "proprietary": "the owner's terms: only the owner, or a contract, can say what is allowed",
    "unknown": "no licence is given",
    "unread": "the licence text was not recognised: read it",
}
_EXPRESSIONS = Licensing()
_LONGEST = 200  # characters of a name; longer texts are licences themselves, not names
_NOTHING = {"", "unknown", "none", "null", "nan", "n/a", "na", "?", "-", "unspecified", "undefined"}


def both(*licenses: str) -> str:
    """Return these licences joined by AND, without unknown ones; "unknown" if there are no others."""
    names = [name for name in dict.fromkeys(map(normalise, licenses)) if name != UNKNOWN]
    if len(names) < 2:
        return names[0] if names else UNKNOWN
    return " AND ".join(f"({name})" if " OR " in name else name for name in names)


def normalise(text: str | None) -> str:
    """Return the SPDX name or expression of a text or address, "unknown" for an empty text, and other texts unchanged.

    Creative Commons names without a version, such as "CC-BY", are not SPDX names, but are returned too. Licences that
    SPDX does not list are LicenseRef-...
    """
    text = " ".join((text or "").split())
    if is_blank(text):
        return UNKNOWN
    if len(text) > _LONGEST:
        return text
    for reading in (_creative_commons_address(text), _creative_commons(text), _ALIASES.get(_plain(text)), _last(text)):
        if reading:
            return reading
    return _spdx(text) or owned(text) or text


def decide(license: str | None, allowed: Sequence[str]) -> bool:
    """Whether `allowed` permits a licence; both may be written in any way that `normalise` reads.

    A name without version allows every version of that licence and nothing else: "CC-BY" or "CC-BY-*" allows CC-BY-3.0
    and CC-BY-4.0, never CC-BY-SA or CC-BY-NC. One side of an OR must be allowed, both sides of an AND. "unknown" must
    be listed itself.
    """
    name = normalise(license)
    if any(_matches(name, entry) for entry in allowed):
        return True
    if not (re.search(r" (OR|AND|WITH) ", name) and _spdx(name)):
        return False
    without_exceptions = re.sub(r" WITH [^\s()]+", "", name)  # an exception only adds permissions
    expression = _EXPRESSIONS.parse(without_exceptions)
    permitted = {
        part: _EXPRESSIONS.TRUE if any(_matches(part.key, entry) for entry in allowed) else _EXPRESSIONS.FALSE
        for part in expression.symbols
    }
    return bool(expression.subs(permitted, simplify=True) == _EXPRESSIONS.TRUE)


def mistyped(allowed: Sequence[str], licenses: Iterable[str]) -> list[str]:
    """Return a warning for each entry of `allowed` that is not a known licence and that allows none of `licenses`."""
    names = [*licenses, UNKNOWN]
    return [
        f"{entry!r} is not an SPDX name, and no sample has this licence"
        for entry in allowed
        if not (is_recognised(normalise(_stem(entry))) or any(decide(name, [entry]) for name in names))
    ]


def is_blank(text: str) -> bool:
    """Whether a text is empty or a placeholder such as "unknown" and "n/a"."""
    return text.strip().casefold() in _NOTHING


def is_recognised(name: str) -> bool:
    """Whether a normalised name is an SPDX expression, OpenRAIL, or "CC-BY" and the like without a version."""
    return is_owned(name) or bool(_spdx(name)) or (name.startswith("CC-") and bool(_creative_commons(name)))


def terms(name: str) -> tuple[str, ...]:
    """Return the terms of a normalised licence: keys of MEANING.

    An unknown licence has the single term "unknown"; a text that was not recognised has "unread".
    """
    if name == UNKNOWN:
        return (UNKNOWN,)
    if not is_recognised(name):
        return ("unread",)
    parts = re.split(r"[\s()]+", name)
    found = {term for part in parts for term, pattern in _TERMS.items() if pattern.search(part)}
    owners = [part for part in parts if is_owned(part) and part != PUBLIC_DOMAIN]
    found |= {term for part in owners for term in owned_terms(part)}
    return tuple(term for term in MEANING if term in found)


_TERMS = {
    "share-alike": re.compile(
        r"-SA(-|$)|^[AL]?GPL-|^GFDL|^ODbL-|^CDLA-Sharing-|^LAL-|^MPL-|^EUPL-|^OSL-|^EPL-|^CECILL-2"
    ),
    "non-commercial": re.compile(r"-NC(-|$)|^PolyForm-Noncommercial"),
    "no-derivatives": re.compile(r"-ND(-|$)"),
}
_ALIASES = {
    "mit license": "MIT",
    "the mit license": "MIT",
    "expat": "MIT",
    "apache 2": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license version 2.0": "Apache-2.0",
    "bsd 2 clause": "BSD-2-Clause",
    "bsd 3 clause": "BSD-3-Clause",
    "the unlicense": "Unlicense",
    "sil open font license 1.1": "OFL-1.1",
    "open data commons open database license": "ODbL-1.0",
    "odbl": "ODbL-1.0",
    "public domain": PUBLIC_DOMAIN,
    "pd": PUBLIC_DOMAIN,
    "public domain mark": "CC-PDM-1.0",
    "public domain mark 1.0": "CC-PDM-1.0",
}
_ADDRESS = re.compile(
    r"(?:https?://)?(?:www\.)?creativecommons\.org/(?P<kind>licenses|publicdomain)/(?P<code>[a-z+-]+)"
    r"(?:/(?P<version>\d\.\d)(?:/(?P<port>[a-z]{2,3})(?=/|$))?)?(?:[/?#].*)?",
    re.IGNORECASE,
)
_OTHER_ADDRESS = re.compile(
    r"(?:https?://)?(?:www\.)?(?:opensource\.org/licenses?|spdx\.org/licenses)/(?P<name>[\w.+-]+?)(?:\.html)?/?",
    re.IGNORECASE,
)
_WORDS = {
    "by": {"by", "attribution"},
    "nc": {"nc", "noncommercial"},
    "nd": {"nd", "noderivs", "noderivatives", "noderivativeworks"},
    "sa": {"sa", "sharealike"},
}
_FILLERS = {"cc", "creativecommons", "license", "licence", "international", "generic", "unported", "universal", "the"}
_FILLERS |= {"public", "domain", "dedication", "deed", "version", "v"}


def _spdx(text: str) -> str | None:
    try:
        return str(canonicalize_license_expression(text))
    except InvalidLicenseExpression:
        return None


def _plain(text: str) -> str:
    return re.sub(r"[\s,_-]+", " ", text.casefold()).strip(" .")


def _last(text: str) -> str | None:
    """Return the SPDX name at the end of an address of opensource.org or spdx.org, or None."""
    match = _OTHER_ADDRESS.fullmatch(text)
    return _spdx(match["name"]) if match else None


def _creative_commons_address(text: str) -> str | None:
    match = _ADDRESS.fullmatch(text)
    if not match:
        return None
    code = match["code"].lower()
    if match["kind"].lower() == "publicdomain" or code == "publicdomain":
        return {"zero": "CC0-1.0", "mark": "CC-PDM-1.0", "publicdomain": "CC-PDDC"}.get(code)
    parts = ["CC", code.upper(), match["version"]]
    ported = "-".join(part for part in [*parts, (match["port"] or "").upper()] if part)
    return _spdx(ported) or _creative_commons("-".join(part for part in parts if part))


def _creative_commons(text: str) -> str | None:
    """Return the name of a Creative Commons licence, or None if a word of the text does not belong to such a name."""
    plain = re.sub(r"creative[\s-]commons", "creativecommons", _plain(text).replace("/", " "))
    for spaced, joined in (("non commercial", "noncommercial"), ("share alike", "sharealike"), ("no deriv", "noderiv")):
        plain = plain.replace(spaced, joined)
    words = re.sub(r"[()]", " ", plain).split()
    versions = {word.lstrip("v") for word in words if re.fullmatch(r"v?\d\.\d", word)}
    rest = [word for word in words if not re.fullmatch(r"v?\d\.\d", word)]
    if {"cc0", "zero"} & set(rest) and set(rest) <= {"cc0", "zero", *_FILLERS}:
        return "CC0-1.0"
    elements = {code for code, names in _WORDS.items() if names & set(rest)}
    known = set.union(*_WORDS.values()) | _FILLERS
    named = bool({"cc", "creativecommons"} & set(rest)) or len(elements) > 1
    if not named or "by" not in elements or len(versions) > 1 or {"nd", "sa"} <= elements or not set(rest) <= known:
        return None
    name = "-".join(["CC", *(code.upper() for code in ("by", "nc", "nd", "sa") if code in elements), *versions])
    return (_spdx(name) if versions else None) or ("" if versions else name) or None


def _family(name: str) -> str:
    """Return the name without version, country and "only" or "or later"."""
    return re.sub(r"-\d+(\.\d+)*(-[A-Z]{2,3}|-only|-or-later|\+)?$", "", name)


def _matches(name: str, entry: str) -> bool:
    stem = _stem(entry)
    if not stem:
        return False
    wanted = normalise(stem).casefold()
    return wanted in (name.casefold(), _family(name).casefold())


def _stem(entry: str) -> str:
    """Return an entry without its "*": "CC-BY" for "CC-BY-*"."""
    return re.sub(r"[\s-]*\*$", "", entry)
