"""Templates print text of others so that it stays text."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import jinja2
import pytest
from markupsafe import Markup

from diffusion_train import page


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Of templates that print `value`."""
    name = f"templates_{tmp_path.name}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").touch()
    (tmp_path / name / "page.html").write_text('<b title="{{ value }}">{{ value }}</b>\n')
    (tmp_path / name / "card.md").write_text("| {{ value }} |\n")
    (tmp_path / name / "code.md").write_text("`{{ value | code }}`\n")
    (tmp_path / name / "lines.txt").write_text("<{{ value }}>\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name
    sys.modules.pop(name, None)


def test_a_value_is_no_html(package: str) -> None:
    printed = page.page(package, "page.html", value="\"><script>alert('x')</script>\u202e\n")
    assert "<script" not in printed
    assert printed.count('"') == 2, "a value closes the attribute it stands in"
    assert "\u202e" not in printed
    assert "\\u202e" in printed


@pytest.mark.parametrize(
    "value", ["a | b", "[x](http://y)", "![](z)", "<img src=x>", "**b**", "# h\n# i", "`c`", "_d_"]
)
def test_a_value_is_no_markdown(package: str, value: str) -> None:
    printed = page.card(package, "card.md", value=value)
    assert printed.count("\n") == 1
    for mark in "|[]!*#`<>":
        assert printed.count(mark) - printed.count(f"\\{mark}") == (2 if mark == "|" else 0), mark


def test_a_value_stays_within_the_code_that_it_stands_in(package: str) -> None:
    assert page.card(package, "code.md", value='a_b `c`\n"<d>\u202e') == "`a_b 'c' '<d>\\u202e`\n"


def test_a_value_on_a_terminal_does_nothing(package: str) -> None:
    assert page.plain(package, "lines.txt", value="a & *b*\x1b[2J\n") == "<a & *b*\\x1b[2J\\n>\n"


def test_markup_of_our_own_is_printed_as_it_is(package: str) -> None:
    assert page.page(package, "page.html", value=Markup("<i>ours</i>")).count("<i>ours</i>") == 2
    assert page.card(package, "card.md", value=Markup("**ours**")) == "| **ours** |\n"


def test_a_missing_value_is_an_error(package: str) -> None:
    with pytest.raises(jinja2.UndefinedError, match="value"):
        page.page(package, "page.html")


def test_a_long_value_is_cut(package: str) -> None:
    assert len(page.card(package, "card.md", value="x" * 100_000)) < 5000


def test_figures() -> None:
    assert [page.number(-1234.567), page.number(0.5, 1), page.number(None)] == ["−1,234.57", "0.5", "–"]
    assert [page.percent(0.256), page.percent(None)] == ["26 %", "–"]
    assert [page.count(1, "image"), page.count(2000, "image")] == ["1 image", "2,000 images"]
