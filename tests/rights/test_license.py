from __future__ import annotations

import pytest

from diffusion_train.rights.image_rights import rights_of
from diffusion_train.rights.license import decide, mistyped, normalise, terms


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("CC BY-SA 4.0", "CC-BY-SA-4.0"),
        ("cc-by-4.0", "CC-BY-4.0"),
        ("CC-BY-NC-ND-3.0-DE", "CC-BY-NC-ND-3.0-DE"),
        ("Creative Commons Attribution-NonCommercial-ShareAlike 4.0 International", "CC-BY-NC-SA-4.0"),
        ("Creative Commons Attribution Non-Commercial No-Derivs 2.0 Generic (CC BY-NC-ND 2.0)", "CC-BY-NC-ND-2.0"),
        ("Attribution-NonCommercial-NoDerivs License", "CC-BY-NC-ND"),
        ("Attribution-ShareAlike 2.0", "CC-BY-SA-2.0"),
        ("CC BY", "CC-BY"),
        ("https://creativecommons.org/licenses/by-sa/4.0/", "CC-BY-SA-4.0"),
        ("http://creativecommons.org/licenses/by/3.0/de/deed.de", "CC-BY-3.0-DE"),
        ("creativecommons.org/licenses/by-nc/2.0/jp/", "CC-BY-NC-2.0"),
        ("https://creativecommons.org/publicdomain/zero/1.0/", "CC0-1.0"),
        ("https://creativecommons.org/publicdomain/mark/1.0/deed.en", "CC-PDM-1.0"),
        ("cc0", "CC0-1.0"),
        ("CC0 1.0 Universal (CC0 1.0) Public Domain Dedication", "CC0-1.0"),
        ("CC0 1.0 Universal", "CC0-1.0"),
        ("mit", "MIT"),
        ("The MIT License", "MIT"),
        ("https://opensource.org/licenses/MIT", "MIT"),
        ("Apache License, Version 2.0", "Apache-2.0"),
        ("mit or (apache-2.0 and cc-by-4.0)", "MIT OR (Apache-2.0 AND CC-BY-4.0)"),
        ("Public domain", "LicenseRef-Public-Domain"),
        ("LicenseRef-ACME-17", "LicenseRef-ACME-17"),
        (None, "unknown"),
        ("  ", "unknown"),
        ("N/A", "unknown"),
    ],
)
def test_what_people_write_is_read_as_spdx(written, name):
    assert normalise(written) == name
    assert normalise(name) == name


@pytest.mark.parametrize(
    "text",
    [
        "CC BY 4.0 except for the logos",
        "not CC0",
        "Attribution",
        "CC BY-SA-ND 4.0",
        "CC BY 9.9",
        "CC BY 3.0 4.0",
        "https://example.org/creativecommons.org/licenses/by/4.0",
        "https://creativecommons.org/licenses/sampling+/1.0/",
        "see LICENSE",
        "(" * 150,
        "MIT OR " * 10_000,
    ],
)
def test_what_is_no_plain_name_stays_as_it_is_and_must_be_read(text):
    assert normalise(text) == " ".join(text.split())
    assert terms(normalise(text)) == ("unread",)
    assert not decide(text, ["MIT", "CC-BY", "CC0-1.0", "CC-BY-ND-4.0", "unknown"])


def test_terms_are_called_by_name():
    assert terms(normalise("CC BY-NC-SA 4.0")) == ("share-alike", "non-commercial")
    assert terms(normalise("CC BY-ND 4.0")) == ("no-derivatives",)
    assert terms(normalise("GPL-3.0-or-later")) == terms(normalise("ODbL")) == ("share-alike",)
    assert terms(normalise("MIT OR CC-BY-SA-4.0")) == ("share-alike",)
    assert terms(normalise("CC-BY-SA")) == ("share-alike",)
    assert terms(normalise("CC0")) == terms(normalise("MIT")) == terms(normalise("CC BY 4.0")) == ()
    assert terms(normalise(None)) == ("unknown",)


@pytest.mark.parametrize(
    ("license", "allowed", "expected"),
    [
        ("CC-BY-4.0", ["cc-by-4.0"], True),
        ("https://creativecommons.org/licenses/by/4.0/", ["CC BY 4.0"], True),
        ("CC-BY-3.0", ["CC-BY-4.0"], False),
        ("CC-BY-3.0", ["CC-BY"], True),
        ("CC-BY-3.0", ["CC-BY-*"], True),
        ("CC-BY", ["CC-BY-*"], True),
        ("CC-BY-3.0-DE", ["cc-by-*"], True),
        ("CC-BY-SA-4.0", ["CC-BY", "CC-BY-*"], False),
        ("CC-BY-NC-4.0", ["CC-BY-*"], False),
        ("CC-BY", ["CC-BY-4.0"], False),
        ("GPL-3.0-or-later", ["GPL"], True),
        ("LGPL-3.0-only", ["GPL"], False),
        ("MIT", ["*"], False),
        (None, ["*", "", "CC-BY-*"], False),
        (None, ["unknown"], True),
        ("", [], False),
        ("MIT OR GPL-2.0-only", ["MIT"], True),
        ("MIT AND GPL-2.0-only", ["MIT"], False),
        ("MIT AND GPL-2.0-only", ["MIT", "GPL"], True),
        ("MIT AND (GPL-2.0-only OR CC0-1.0)", ["MIT", "CC0"], True),
        ("CC0-1.0 OR MIT AND GPL-2.0-only", ["CC0"], True),
        ("CC0-1.0 OR MIT AND GPL-2.0-only", ["MIT"], False),
        ("GPL-2.0-only WITH GCC-exception-2.0 OR MIT", ["GPL-2.0-only"], True),
        ("All Rights Reserved", ["all rights reserved"], True),
        ("https://example.org/terms", ["https://example.org/terms"], True),
    ],
)
def test_allowed_or_kept_out(license, allowed, expected):
    assert decide(license, allowed) is expected


def test_an_allowed_licence_that_nothing_is_called_by_is_told():
    understood = ["CC-BY", "CC-BY-*", "cc0", "unknown", "MIT OR GPL-2.0-only", "public domain", "Stock Plus"]
    assert mistyped([*understood, "BY-BY", "*", ""], ["stock plus", "MIT"]) == [
        f"{name!r} is not an SPDX name, and no sample has this licence" for name in ("BY-BY", "*", "")
    ]


def test_fields_are_found_whatever_they_are_called():
    facts = {"Licence": "CC BY 4.0", "creator": " Ada ", "url": "https://example.org/1.jpg", "n": 3}
    assert rights_of(facts)[:3] == ("CC-BY-4.0", "Ada", "https://example.org/1.jpg")
    assert rights_of({"license": None, "license_url": "https://creativecommons.org/licenses/by/4.0/"})[0] == "CC-BY-4.0"
    assert rights_of({"license": []}) == rights_of({"license": {}}) == rights_of({"licence": {"name": ""}})


@pytest.mark.parametrize(
    ("license", "expected"),
    [
        (["CC-BY-NC-4.0"], "CC-BY-NC-4.0"),
        (["mit", "MIT", None], "MIT"),
        (["MIT OR GPL-2.0-only", "CC BY 4.0"], "(MIT OR GPL-2.0-only) AND CC-BY-4.0"),
        ({"name": "CC BY-NC 4.0", "url": "https://example.org"}, "CC-BY-NC-4.0"),
        ({"URL": "https://creativecommons.org/licenses/by/4.0/"}, "CC-BY-4.0"),
        ({"a": 1}, '{"a": 1}'),
        ([{"id": "MIT"}, {"a": 1}], 'MIT AND {"a": 1}'),
    ],
)
def test_a_licence_in_a_list_or_an_object_is_never_taken_for_none(license, expected):
    """`prepare.license` stands in for none."""
    found = rights_of({"license": license}).license
    assert found == expected
    if "{" in expected:
        assert terms(found) == ("unread",)
        assert not decide(found, ["MIT", "CC0-1.0"])
