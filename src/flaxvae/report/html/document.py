"""A self-contained page: one file, no network, no framework.

Markup is made by ``tag``, which escapes every string that is not markup already: names of files
and classes come from strangers, and are text. A policy in the page (Content-Security-Policy) allows
no connection, and scripts by their hash alone: text that got through would still do nothing.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import html
import json
import re
from collections.abc import Sequence
from importlib import resources
from typing import Any, NamedTuple

from flaxvae.errors import visible

_VOID = {"br", "hr", "img", "input", "meta"}
_NO_TEXT = re.compile("[\ud800-\udfff]")  # nor any page's


class Html(str):
    """Markup; any other string is text."""

    __slots__ = ()


class Section(NamedTuple):
    """A part of a page, with its heading, and the style and the script that it needs."""

    id: str
    title: str
    body: Html
    style: str = ""  # CSS
    script: str = ""  # JavaScript, run once the page is there; in a scope of its own
    assembles: bool = False  # whether the script compiles WebAssembly


def escape(text: object) -> Html:
    """Text as markup, in which no character hides or moves others; half a surrogate is U+FFFD."""
    return Html(html.escape(_text(str(text))))


def _text(text: str) -> str:
    return _NO_TEXT.sub("\ufffd", visible(text, keep="\n\t"))


def tag(name: str, /, *inside: object, **attributes: Any) -> Html:
    """An element: ``tag("p", "1 < 2", class_="note")`` is ``<p class="note">1 &lt; 2</p>``.

    Args:
        name: of the element.
        inside: markup (Html), text, or sequences of these; None is left out.
        attributes: ``class_`` and ``for_`` lose their underscore, others become dashes. None and
            False are left out; True stands without a value.
    """
    said = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{escape(value)}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    return Html(f"<{name}{said}>" + ("" if name in _VOID else f"{join(inside)}</{name}>"))


def join(parts: object) -> Html:
    """Markup, text, and sequences of these, one after the other."""
    if parts is None:
        return Html()
    if isinstance(parts, Html):
        return parts
    if isinstance(parts, list | tuple):
        return Html("".join(map(join, parts)))
    return escape(parts)


def data(value: Any, **attributes: Any) -> Html:
    """A value for the page's scripts, in an element with these attributes: ``JSON.parse`` reads
    its ``textContent``. Text in it is as ``escape`` has it."""
    text = json.dumps(_seen(value), separators=(",", ":"), allow_nan=False)
    # Inside a script element nothing is unescaped, and only these could end it.
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return tag("script", Html(text), type="application/json", **attributes)


def _seen(value: Any) -> Any:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, list | tuple):
        return list(map(_seen, value))
    return {_seen(k): _seen(v) for k, v in value.items()} if isinstance(value, dict) else value


def table(
    rows: Sequence[Sequence[object]], columns: Sequence[object], caption: object = None
) -> Html:
    """A table whose first column names its rows; numbers line up at the right."""
    head = tag("tr", [tag("th", name, scope="col") for name in columns])
    body = [
        tag("tr", tag("th", row[0], scope="row"), [tag("td", cell) for cell in row[1:]])
        for row in rows
    ]
    title = None if caption is None else tag("caption", caption)
    inside = tag("table", title, tag("thead", head), tag("tbody", body))
    # It scrolls by itself on a narrow screen, with the keyboard, too.
    name = f"Table: {caption}" if caption is not None else "Table"
    return tag("div", inside, class_="scroll", tabindex=0, role="group", aria_label=name)


def details(summary: object, *inside: object) -> Html:
    """What is shown on request."""
    return tag("details", tag("summary", summary), inside)


def command(words: str) -> Html:
    """A command with a button that copies it."""
    button = tag("button", "Copy", type="button", class_="copy", hidden=True)
    code = tag("pre", tag("code", words), tabindex=0, role="group", aria_label="Command")
    return tag("div", code, button, class_="command")


def document(
    title: str, sections: Sequence[Section], header: Html | None = None, footer: object = None
) -> str:
    """A whole page.

    Args:
        title: of the window, in text.
        sections: in order; those with a title are listed at the top.
        header: stands above them, with the page's h1; by default the title.
        footer: the last line.
    """
    styles = [_own("page.css"), *dict.fromkeys(part.style for part in sections if part.style)]
    scripts = [_own("page.js"), *dict.fromkeys(part.script for part in sections if part.script)]
    early = _own("theme.js")  # before anything is drawn
    hashes = " ".join(_hash(script) for script in (early, *scripts))
    assembly = " 'wasm-unsafe-eval'" if any(part.assembles for part in sections) else ""
    policy = (
        f"default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; "
        f"script-src {hashes}{assembly}; worker-src blob:; base-uri 'none'; form-action 'none'"
    )
    links = [tag("a", part.title, href=f"#{part.id}") for part in sections if part.title]
    theme = tag("button", "Theme", type="button", id="theme", hidden=True)
    above = [
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", title),
        [_raw("style", style) for style in styles],
        _raw("script", early),
    ]
    inside = [
        tag("a", "Skip to the content", href="#content", class_="skip"),
        tag("header", header or tag("h1", title)),
        tag("nav", links, theme, aria_label="Sections"),
        tag("main", [_section(part) for part in sections], id="content"),
        tag("footer", footer),
        tag("div", id="tip", aria_hidden="true", hidden=True),
        tag("div", id="said", class_="unseen", aria_live="polite"),
        [_raw("script", script) for script in scripts],
    ]
    page = tag("html", tag("head", above), tag("body", inside), lang="en")
    return f"<!doctype html>\n{page}\n"


def _section(part: Section) -> Html:
    heading = tag("h2", part.title, id=f"{part.id}-title") if part.title else None
    label = f"{part.id}-title" if part.title else None
    return tag("section", heading, part.body, id=part.id, aria_labelledby=label)


@functools.cache
def _own(name: str) -> str:
    """The text of one of the files beside this one."""
    return (resources.files(__package__) / name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _raw(name: str, code: str) -> Html:
    """A style or a script, in which nothing is escaped."""
    if f"</{name}" in code.lower() or "<!--" in code:
        raise ValueError(f"a {name} that would end itself")
    return Html(f"<{name}>{code}</{name}>")
