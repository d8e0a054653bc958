from __future__ import annotations

import pytest

from diffusion_train.data.caption.template import CAPTION, Template


def rendered(text, caption="cat", trigger="sks", **fields):
    values = {tuple(name.split("__")): value for name, value in fields.items()}
    return Template(text, trigger).render({CAPTION: caption, **values})


def test_names_are_filled_in():
    assert rendered("a photo of {trigger}, {caption}") == "a photo of sks, cat"
    assert rendered("{json.a.b}: {caption}{caption} {{x}} 100%", a__b="T") == "T: catcat {x} 100%"
    assert rendered("") == ""


@pytest.mark.parametrize("text", ["{trigger}", "{caption.__class__}", "{0}", "{{", "}", "%s", "\\1", "{json.a}", "$x"])
def test_template_text_in_a_caption_comes_through_as_it_is(text):
    assert rendered("<{caption}> {json.a}", caption=text, a=text) == f"<{text}> {text}"


@pytest.mark.parametrize(
    "text",
    ["{}", "{name}", "{caption!r}", "{caption:>9}", "{caption.x}", "{ caption }", "{", "}", "a { b", "{trigger", "{0}"],
)
def test_unknown_names_and_single_braces_are_refused(text):
    with pytest.raises(ValueError, match=r"data\.captions\.templates: .*use \{caption\}, \{trigger\}"):
        rendered(text)


def test_a_trigger_or_field_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"data\.captions\.trigger is empty"):
        Template("{trigger}", "")
    with pytest.raises(ValueError, match=r"json=a\.\.b: must be names joined by single dots"):
        Template("{json.a..b}", "")


def test_braces_in_a_trigger_are_text():
    assert rendered("{trigger} {caption}", trigger="{caption} {{") == "{caption} {{ cat"
