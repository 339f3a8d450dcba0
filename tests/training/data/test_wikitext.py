from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.training.data.tables import read_table
from advisor.training.data.wikitext import plain_text, read_articles

SENTENCE = "This is a sentence that is long enough to be kept by the filter."


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        (f"{{{{Infobox|a={{{{b}}}}|c}}}}{SENTENCE}", SENTENCE),
        (f"{{| class=x\n|-\n| {SENTENCE}\n|}}\n{SENTENCE}", SENTENCE),
        (
            "'''Bold''' and [[target|shown]] and [[plain]] words in a sentence here.",
            "Bold and shown and plain words in a sentence here.",
        ),
        (f"{SENTENCE}<ref name=x>[http://a.b c]</ref><ref name=y/>", SENTENCE),
        (f"[[File:a.jpg|thumb|with [[a link]] inside]]{SENTENCE}", SENTENCE),
        (f"* a list item that is long enough to be kept by the filter\n{SENTENCE}", SENTENCE),
        (f"== History ==\n{SENTENCE}", f"= = History = =\n{SENTENCE}"),
        (
            "Entities &amp;ndash; escaped twice &amp;amp; kept as the characters.",
            "Entities – escaped twice & kept as the characters.",
        ),
        (f"<!-- a note -->{SENTENCE}<math>x^2</math>", SENTENCE),
        (f"{SENTENCE} }}}} stray", f"{SENTENCE} }}}} stray"),
    ],
)
def test_markup_is_removed(markup: str, text: str) -> None:
    assert plain_text(markup) == text


@given(st.text(alphabet="{}[]|'<>=ab \n", max_size=60))
def test_broken_markup_never_crashes(markup: str) -> None:
    plain_text(markup)


def test_redirects_other_namespaces_and_stubs_are_left_out() -> None:
    long = " ".join([SENTENCE] * 10)
    pages = [("Kept", long), ("Talk:Kept", long), ("Moved", "#REDIRECT [[Kept]]" + long), ("Stub", SENTENCE)]
    body = "".join(f"<page><title>{t}</title><ns>0</ns><revision><text>{x}</text></revision></page>" for t, x in pages)
    dump = io.BytesIO(f'<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/">{body}</mediawiki>'.encode())
    assert list(read_articles(dump)) == [("Kept", f"= Kept =\n{long}")]


def test_the_demo_articles(wikipedia: Path) -> None:
    texts = read_table(wikipedia, "jsonl").column("text")
    assert len(texts) == 97
    assert sum(len(text.split()) for text in texts) == 413_033
    assert not any(mark in text for text in texts for mark in ("{{", "}}", "<ref", "&lt;"))
