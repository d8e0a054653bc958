from __future__ import annotations

import pytest

from diffusion_train.rights.license import MEANING, decide, normalise, terms
from diffusion_train.rights.owned_license import copyright_owner


@pytest.mark.parametrize(
    ("written", "name", "term"),
    [
        ("own work", "LicenseRef-Own", ()),
        ("Own", "LicenseRef-Own", ()),
        ("In-house", "LicenseRef-Own", ()),
        ("our own photographs", "LicenseRef-Own", ()),
        ("Proprietary", "LicenseRef-Proprietary", ("proprietary",)),
        ("proprietary license", "LicenseRef-Proprietary", ("proprietary",)),
        ("All rights reserved.", "LicenseRef-Proprietary", ("proprietary",)),
        ("(c) 2024 ACME GmbH", "LicenseRef-Proprietary", ("proprietary",)),
        ("LicenseRef-ACME-Contract-17", "LicenseRef-ACME-Contract-17", ("proprietary",)),
        ("LicenseRef-ACME AND CC-BY-SA-4.0", "LicenseRef-ACME AND CC-BY-SA-4.0", ("share-alike", "proprietary")),
        ("Getty Images", "LicenseRef-Getty-Images", ("stock",)),
        ("getty", "LicenseRef-Getty-Images", ("stock",)),
        ("Adobe Stock Extended License", "LicenseRef-Adobe-Stock-Extended", ("stock",)),
        ("Shutterstock (standard license)", None, ("unread",)),
        ("shutterstock standard licence", "LicenseRef-Shutterstock-Standard", ("stock",)),
        ("iStock by Getty Images", "LicenseRef-iStock", ("stock",)),
        ("iStockphoto, editorial use only", "LicenseRef-iStock-Editorial", ("stock",)),
        ("CreativeML Open RAIL-M", "creativeml-openrail-m", ("use-restricted",)),
        ("creativeml-openrail-m", "creativeml-openrail-m", ("use-restricted",)),
        ("OpenRAIL++", "openrail++", ("use-restricted",)),
    ],
)
def test_licences_that_no_list_holds_have_a_name_and_terms(written, name, term):
    assert normalise(written) == (name or written)
    assert normalise(normalise(written)) == normalise(written)
    assert terms(normalise(written)) == term
    assert set(term) <= set(MEANING)
    assert decide(written, [written])
    assert not decide(written, ["MIT", "CC-BY"])


@pytest.mark.parametrize(
    ("notice", "owner"),
    [
        ("(c) 2024 ACME GmbH", "ACME GmbH"),
        ("© ACME", "ACME"),
        ("Copyright (c) 2019-2024, ACME Inc. All rights reserved.", "ACME Inc"),
        ("copyright by Ada Lovelace", "Ada Lovelace"),
        ("Copyright ACME, licensed under CC BY 4.0", ""),
        ("copyleft", ""),
        ("(c)", ""),
    ],
)
def test_a_notice_names_its_owner(notice, owner):
    assert copyright_owner(notice) == owner
    assert terms(normalise(notice)) == (("proprietary",) if owner or notice == "(c)" else ("unread",))


def test_what_only_looks_like_one_must_be_read():
    for text in ("Getty or similar", "not proprietary", "own risk", "copyrighted by the museum, see there", "rail"):
        assert terms(normalise(text)) == ("unread",)
