"""A MediaWiki XML dump as plain text, with the standard library only.

Markup that carries no running text (templates, tables, references, files, lists) is dropped; headings are kept as
``= Title =`` lines, as WikiText does.
"""

from __future__ import annotations

import html
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from typing import IO

MIN_ARTICLE_CHARACTERS = 500
MIN_LINE_CHARACTERS = 40

_NO_TEXT = (
    re.compile(r"<!--.*?-->", re.DOTALL),
    re.compile(r"<ref[^>/]*/>"),
    re.compile(r"<ref[^>]*>.*?</ref>", re.DOTALL),
    re.compile(r"<(math|gallery|timeline|code|pre|syntaxhighlight|table)[^>]*>.*?</\1>", re.DOTALL | re.IGNORECASE),
)
_MEDIA_LINK = re.compile(r"\[\[(?:File|Image|Category)[^\[\]]*(?:\[\[[^\[\]]*\]\][^\[\]]*)*\]\]", re.IGNORECASE)
_LINK_DEPTH = 3
_REPLACEMENTS = (
    (re.compile(r"\[\[[^\[\]|]*\|([^\[\]]*)\]\]"), r"\1"),
    (re.compile(r"\[\[([^\[\]]*)\]\]"), r"\1"),
    (re.compile(r"\[https?://\S+ ([^\]]*)\]"), r"\1"),
    (re.compile(r"\[https?://\S+\]"), ""),
    (re.compile(r"'{2,}"), ""),
    (re.compile(r"<[^>]+>"), ""),
)
_HEADING = re.compile(r"^(=+)\s*(.*?)\s*\1$")


def read_articles(dump: IO[bytes]) -> Iterator[tuple[str, str]]:
    """Title and plain text of every real article of a dump, in its order.

    Redirects, pages of other namespaces and pages with hardly any running text are left out.
    """
    title = ""
    for _, element in ElementTree.iterparse(dump):
        tag = element.tag.rsplit("}", 1)[-1]
        if tag == "title":
            title = element.text or ""
        elif tag == "text":
            markup = element.text or ""
            if ":" not in title and not markup[:9].lower().startswith("#redirect"):
                text = plain_text(markup)
                if len(text) > MIN_ARTICLE_CHARACTERS:
                    yield title, f"= {title} =\n{text}"
        elif tag == "page":
            element.clear()


def plain_text(markup: str) -> str:
    """The running text of one page, one paragraph a line."""
    for pattern in _NO_TEXT:
        markup = pattern.sub("", markup)
    markup = _drop_nested(_drop_nested(markup, "{{", "}}"), "{|", "|}")
    for _ in range(_LINK_DEPTH):
        markup = _MEDIA_LINK.sub("", markup)
    for pattern, replacement in _REPLACEMENTS:
        markup = pattern.sub(replacement, markup)
    # Entities of the dump are escaped twice.
    lines = html.unescape(html.unescape(markup)).split("\n")
    return "\n".join(filter(None, (_paragraph(line.strip()) for line in lines)))


def _paragraph(line: str) -> str:
    if heading := _HEADING.match(line):
        bars = " ".join("=" * (len(heading[1])))
        return f"{bars} {heading[2]} {bars}"
    if line[:1] in tuple("*#:;|!{}") or len(line) < MIN_LINE_CHARACTERS:
        return ""
    return re.sub(r"\s+", " ", line)


def _drop_nested(text: str, opening: str, closing: str) -> str:
    """Remove everything between matching two-character brackets, which may be nested."""
    kept: list[str] = []
    depth = position = 0
    for match in re.finditer(f"{re.escape(opening)}|{re.escape(closing)}", text):
        if match.start() < position:
            continue
        if depth == 0:
            kept.append(text[position : match.start()])
            if match[0] == closing:
                kept.append(closing)
        depth = depth + 1 if match[0] == opening else max(depth - 1, 0)
        position = match.end()
    if depth == 0:
        kept.append(text[position:])
    return "".join(kept)
