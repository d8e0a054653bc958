"""Pages (HTML), cards (Markdown) and plain texts from jinja2 templates, which lie beside the code that fills them.

Every value that a template prints is untrusted text unless it is `Markup`: unprintable characters are made visible, and
HTML (in a card also Markdown) is escaped.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from diffusion_train.utils.text import printable

_LONGEST = 4000  # characters of one value; `| cut(n)` for less


def page(package: str, template: str, **values: Any) -> str:
    """Return the HTML of `template`, a file of `package`. Raises jinja2.UndefinedError for a missing value."""
    return _environment(package, _printable).get_template(template).render(values)


def card(package: str, template: str, **values: Any) -> str:
    """Return the Markdown of `template`, a file of `package`. Raises as `page` does."""
    return _environment(package, _markdown_text).get_template(template).render(values)


def plain(package: str, template: str, **values: Any) -> str:
    """Return the plain text of `template`, for a terminal; nothing is escaped as markup. Raises as `page` does."""
    return _environment(package, _printable, autoescape=False).get_template(template).render(values)


def number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:,.{digits}f}".replace("-", "−")


def percent(fraction: float | None) -> str:
    return "–" if fraction is None else f"{round(100 * fraction)} %".replace("-", "−")


def count(amount: int, noun: str) -> str:
    """`1 image`, `2,000 images`."""
    return f"{amount:,} {noun}{'' if amount == 1 else 's'}"


@cache
def _environment(package: str, finalize: Callable[[object], object], autoescape: bool = True) -> Environment:
    environment = Environment(
        loader=PackageLoader(package, ""),
        autoescape=autoescape,
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"number": number, "percent": percent, "count": count, "cut": _cut, "code": _code}
    return environment


def _cut(value: object, length: int) -> str:
    return printable(str(value), length)


def _code(value: object) -> Markup:
    """Put a value on one line, and replace the characters that end code in Markdown: backticks and double quotes."""
    return Markup(_on_one_line(value).replace("`", "'").replace('"', "'"))


def _on_one_line(value: object) -> str:
    return printable(" ".join(str(value).split()), _LONGEST)


def _printable(value: object) -> object:
    return value if isinstance(value, Markup) else printable(str(value), _LONGEST)


def _markdown_text(value: object) -> object:
    """Put a value on one line and escape what Markdown or a browser would read as markup."""
    if isinstance(value, Markup):
        return value
    text = html.escape(_on_one_line(value), quote=False)
    return Markup(re.sub(r"([\\`*{}\[\]#+!|~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))", r"\\\1", text))
