from __future__ import annotations

import numpy as np
import pytest

from diffusion_train.data.image.header import ImageError
from diffusion_train.prepare.image.svg import draw_svg, svg_header
from diffusion_train.prepare.image.svg_safety import OutsideReference, checked_svg

SPACE = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'


def svg(body="", root='viewBox="0 0 24 12"', before="") -> bytes:
    return f"{before}<svg {SPACE} {root}>{body}</svg>".encode()


def test_a_drawing_has_the_asked_side_and_its_own_ratio():
    data = svg('<rect width="12" height="12" fill="#ff0000"/>')
    header = svg_header(data, 200)
    assert (header.width, header.height, header.alpha) == (200, 100, True)
    drawn = draw_svg(data, header)
    assert (drawn.mode, drawn.size) == ("RGBA", (200, 100))
    pixels = np.asarray(drawn)
    assert (pixels[50, 50].tolist(), pixels[50, 150, 3]) == ([255, 0, 0, 255], 0)


def test_a_drawing_that_covers_everything_is_opaque():
    data = svg('<rect width="24" height="12" fill="#123456"/>')
    assert draw_svg(data, svg_header(data, 64)).mode == "RGB"


@pytest.mark.parametrize(
    ("root", "size"),
    [
        ('width="30mm" height="10mm"', (300, 100)),
        ('width="2in" height="96px" viewBox="0 0 5 5"', (300, 150)),
        ('width="100%" height="100%" viewBox="0,0 1 3"', (100, 300)),
        ('viewBox="-5 -5 1e6 10"', (300, 1)),
    ],
)
def test_its_ratio_is_that_of_its_sides_or_of_its_view_box(root, size):
    header = svg_header(svg(root=root), 300)
    assert (header.width, header.height) == size


@pytest.mark.parametrize(
    "root", ["", 'viewBox="0 0 0 5"', 'viewBox="0 0 1e999 5"', 'width="-4" height="4"', 'viewBox="0 0"']
)
def test_a_drawing_without_a_size_is_refused(root):
    with pytest.raises(ImageError, match="must state its size"):
        svg_header(svg(root=root), 64)


INSIDE = [
    '<defs><linearGradient id="g"/></defs><rect fill="url(#g)" style="stroke: url( \'#g\' )" width="1" height="1"/>',
    '<style>.a { fill: red } .b { clip-path: url(#c) }</style><use xlink:href="#a"/><use href="#a"/>',
    "<title>url (see our site), image (2)</title><metadata>http://example.org/@import</metadata>",
]


@pytest.mark.parametrize("body", INSIDE)
def test_references_inside_the_drawing_are_used(body):
    data = svg(body)
    draw_svg(data, svg_header(data, 16))


DOCTYPE = '<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "http://www.w3.org/Graphics/SVG/1.1/DTD/svg11.dtd">'


def test_the_usual_head_of_a_file_is_used():
    head = f'\ufeff<?xml version="1.0" encoding="UTF-8"?><!-- Generator -->{DOCTYPE}'
    checked_svg(svg(before=head))


OUTSIDE = {
    "file": svg('<image xlink:href="file:///etc/passwd"/>'),
    "relative": svg('<image href="logo.png"/>'),
    "address": svg('<use href="https://example.org/a.svg#x"/>'),
    "data": svg('<image href="data:image/png;base64,AAAA"/>'),
    "link": svg('<a href=" https://example.org"/>'),
    "fill": svg('<rect fill="url(http://example.org/#g)"/>'),
    "quoted": svg("<rect fill='URL( \"other.svg#g\")'/>"),
    "attribute-style": svg('<rect style="fill:url(x.svg#g)"/>'),
    "import": svg("<style>@Import 'http://example.org/a.css';</style>"),
    "cdata": svg("<style><![CDATA[@font-face { src: url(font.woff) }]]></style>"),
    "escape": svg("<style>a { fill: u\\72l(x.svg) }</style>"),
    "cut": svg("<style>@im<!-- -->port 'a.css'</style>"),
    "image-set": svg("<style>a { background: image-set('x.png' 1x) }</style>"),
    "long": svg(f"<style>{' ' * 8190}@import 'a.css'</style>"),
    "xinclude": svg('<xi:include xmlns:xi="http://www.w3.org/2001/XInclude" parse="text"/>'),
    "base": svg('<g xml:base="http://example.org/"/>'),
    "stylesheet": svg(before='<?xml-stylesheet href="a.css"?>'),
    "entity": svg("&x;", before='<!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]>'),
    "laughs": svg("&b;", before='<!DOCTYPE svg [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>'),
    "dtd": svg(before='<!DOCTYPE svg SYSTEM "http://example.org/a.dtd">'),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_what_refers_outside_itself_is_refused_before_it_is_drawn(name, monkeypatch):
    monkeypatch.setattr("resvg_py.svg_to_bytes", lambda **_: pytest.fail("drawn"))
    with pytest.raises(OutsideReference):
        svg_header(OUTSIDE[name], 64)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (svg("<text>ACME</text>"), "convert it to paths"),
        (svg("<script>alert(1)</script>"), "<script> would not be drawn"),
        (svg("<g>"), "not well-formed"),
        (b"<svg>" + b"<g>" * 3, "its root is <svg>"),
        (b'<html><svg xmlns="http://www.w3.org/2000/svg"/></html>', "its root is <html>"),
        (svg().decode().encode("utf-16"), "must be UTF-8"),
    ],
)
def test_what_would_not_be_drawn_as_it_is_meant_is_refused(data, message):
    with pytest.raises(ImageError, match=message):
        checked_svg(data)


def test_a_bomb_of_references_is_refused_soon():
    tens = "".join(f'<g id="g{i}">' + f'<use href="#g{i - 1}"/>' * 10 + "</g>" for i in range(1, 9))
    data = svg(f'<defs><g id="g0"><path/></g>{tens}</defs><use href="#g8"/>')
    with pytest.raises(ImageError, match="resvg cannot draw it"):
        draw_svg(data, svg_header(data, 16))
