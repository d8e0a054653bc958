"""Names for licences that SPDX does not list: own work, an owner's terms, a stock agency's contract, OpenRAIL.

SPDX writes unlisted names as LicenseRef-... (SPDX 2.3, annex D). OpenRAIL has the names of the Hugging Face hub.
"""

from __future__ import annotations

import re

OWN = "LicenseRef-Own"
PROPRIETARY = "LicenseRef-Proprietary"
_AGENCIES = {
    "123rf": "123RF",
    "adobe stock": "Adobe-Stock",
    "adobestock": "Adobe-Stock",
    "alamy": "Alamy",
    "depositphotos": "Depositphotos",
    "dreamstime": "Dreamstime",
    "fotolia": "Adobe-Stock",
    "getty": "Getty-Images",
    "getty images": "Getty-Images",
    "gettyimages": "Getty-Images",
    "istock": "iStock",
    "istock photo": "iStock",
    "istockphoto": "iStock",
    "istock by getty images": "iStock",
    "pond5": "Pond5",
    "shutterstock": "Shutterstock",
}
_VARIANTS = {
    "editorial": "Editorial",
    "editorial use": "Editorial",
    "editorial use only": "Editorial",
    "enhanced": "Enhanced",
    "extended": "Extended",
    "rights managed": "Rights-Managed",
    "royalty free": "Royalty-Free",
    "standard": "Standard",
}
_OPENRAIL = {  # names of https://huggingface.co/docs/hub/repositories-licenses
    "openrail": "openrail",
    "open rail": "openrail",
    "openrail m": "openrail",
    "openrail++": "openrail++",
    "openrail++ m": "openrail++",
    "creativeml openrail m": "creativeml-openrail-m",
    "creativeml open rail m": "creativeml-openrail-m",
    "creativeml openrail++ m": "openrail++",
    "creativeml open rail++ m": "openrail++",
    "bigscience openrail m": "bigscience-openrail-m",
    "bigcode openrail m": "bigcode-openrail-m",
}
_OWN = re.compile(
    r"own|in house|inhouse|(our |my )?own (work|images?|photos?|photographs?|pictures?|production)|self made"
)
_PROPRIETARY = re.compile(
    r"proprietary|copyrighted|copyright|©|\(c\)|(copyright )?all rights reserved|company confidential"
)
_COPYRIGHT = re.compile(
    r"(?:copyright\b|©|\(c\))[\s:]*(?:©|\(c\))?\s*(?:\d{4}(?:\s*[-–]\s*\d{4})?)?[\s,]*(?:by\s+)?(?P<owner>.*?)"
    r"[\s.,;]*(?:all rights reserved)?[\s.]*",
    re.IGNORECASE,
)
_TERMS_FOLLOW = re.compile(r"\b(licen[cs]ed?|permission|granted|under|except|unless|free)\b", re.IGNORECASE)
_STOCK = tuple(f"LicenseRef-{name}" for name in dict.fromkeys(_AGENCIES.values()))


def owned(text: str) -> str | None:
    """Return the name of the unlisted licence that `text` means, or None."""
    plain = re.sub(r"[\s,_-]+", " ", text.casefold()).strip(" .")
    plain = re.sub(r" ?(licen[cs]e|agreement)$", "", plain)
    if _OWN.fullmatch(plain):
        return OWN
    if plain in _OPENRAIL:
        return _OPENRAIL[plain]
    return _stock(plain) or (PROPRIETARY if _PROPRIETARY.fullmatch(plain) or copyright_owner(text) else None)


def copyright_owner(text: str) -> str:
    """Return the owner that a notice such as "(c) 2024 ACME" names, "" if it names none or continues with terms."""
    match = _COPYRIGHT.fullmatch(text.strip())
    return match["owner"].strip() if match and not _TERMS_FOLLOW.search(match["owner"]) else ""


def is_owned(name: str) -> bool:
    """Whether a name is one that `owned` returns, or another LicenseRef-..."""
    return bool(re.fullmatch(r"LicenseRef-[A-Za-z0-9.-]+", name)) or name in _OPENRAIL.values()


def owned_terms(name: str) -> tuple[str, ...]:
    """Return the terms of an unlisted licence."""
    if name == OWN:
        return ()
    if name in _OPENRAIL.values():
        return ("use-restricted",)
    return ("stock",) if name.startswith(_STOCK) else ("proprietary",)


def _stock(plain: str) -> str | None:
    for agency in sorted(_AGENCIES, key=len, reverse=True):
        if plain == agency or plain.startswith(f"{agency} "):
            variant = plain.removeprefix(agency).strip()
            if variant and variant not in _VARIANTS:
                return None
            return "-".join(["LicenseRef", _AGENCIES[agency], *([_VARIANTS[variant]] if variant else [])])
    return None
