"""Texts whose words have tags: from lists of words and tags, from CoNLL files, or from spans of a text."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advisor.core.data import ReadOptions
from advisor.core.errors import DataError
from advisor.training.data.cells import CellError, is_absent, parsed, text_of
from advisor.training.data.text_files import read_text

OUTSIDE = "O"
"""Tag of a word that belongs to nothing (Ramshaw and Marcus 1995; CoNLL-2003)."""
TOKENS, TAGS = "tokens", "tags"
_WORD = re.compile(r"\w+|[^\w\s]")
_DOCUMENT_START = "-DOCSTART-"
_SHOWN = 60


@dataclass(frozen=True)
class RawTagged:
    """A text with the places of its words and their tags.

    Attributes:
        text: The text.
        words: Where each word begins and ends in it.
        tags: One per word.
    """

    text: str
    words: tuple[tuple[int, int], ...]
    tags: tuple[str, ...]


# --- CoNLL files ------------------------------------------------------------------------------------------------------


def read_conll(path: Path, options: ReadOptions) -> tuple[dict[str, Sequence[Any]], tuple[str, ...]]:
    """Sentences of a CoNLL file: a word a line, its tag in the last column, a blank line between sentences.

    Columns are separated by tabs or blanks. Lines that begin a document are left out, and so are comments (``# ``).

    Returns:
        Columns of words and of tags, a sentence a row; and what is worth knowing of the reading.

    Raises:
        DataError: missing, unreadable, or a line without a tag or with another number of columns.
    """
    file = read_text(path, options.encoding)
    sentences: list[tuple[list[str], list[str]]] = [([], [])]
    width = 0
    for number, line in enumerate(file.text.splitlines(), start=1):
        fields = (line.split("\t") if "\t" in line else line.split()) if line.strip() else []
        if not fields or fields[0] == _DOCUMENT_START or line.startswith("# "):
            if sentences[-1][0]:
                sentences.append(([], []))
            continue
        width = width or len(fields)
        if len(fields) != width or width < 2:
            raise DataError(
                f"a line must hold a word and its tag, in {max(width, 2)} columns, but line {number} of {path} has"
                f" {len(fields)}: {line[:_SHOWN]!r}",
                fix="separate word and tag by a tab, sentences by a blank line"
                + ("" if width < 2 else "; the first line says how many columns there are"),
            )
        sentences[-1][0].append(fields[0].strip())
        sentences[-1][1].append(fields[-1].strip())
    found = [sentence for sentence in sentences if sentence[0]]
    notes = [*file.notes]
    if width > 2:
        notes.append(f"of {width} columns of {path.name} the first is read as the word and the last as its tag")
    return {TOKENS: [words for words, _ in found], TAGS: [tags for _, tags in found]}, tuple(notes)


# --- rows of a table --------------------------------------------------------------------------------------------------


def words_with_tags(tokens: Any, tags: Any, names: tuple[str, ...] = ()) -> RawTagged:
    """A row of two lists. Words are joined by blanks.

    Args:
        tokens: Words.
        tags: One per word: texts, or indices of ``names``.
        names: That the source declares.

    Raises:
        CellError: they are no lists of the same length, or a word is empty.
    """
    words, marks = (parsed(value) for value in (tokens, tags))
    if not isinstance(words, list | tuple) or not isinstance(marks, list | tuple):
        wrong = words if not isinstance(words, list | tuple) else marks
        raise CellError("a list of words and a list of their tags", repr(str(wrong)[:_SHOWN]), _LISTS_FIX)
    if len(words) != len(marks):
        raise CellError("one tag a word", f"{len(words)} words and {len(marks)} tags", _LISTS_FIX)
    kept = [(text_of(word), _tag(tag, names)) for word, tag in zip(words, marks, strict=True)]
    kept = [(word, tag) for word, tag in kept if word]  # blanks stand as tokens in some data sets
    places, start = [], 0
    for word, _ in kept:
        places.append((start, start + len(word)))
        start += len(word) + 1
    return RawTagged(" ".join(word for word, _ in kept), tuple(places), tuple(tag for _, tag in kept))


_LISTS_FIX = 'write {"tokens": ["Ada", "lives"], "tags": ["B-PER", "O"]}'


def _tag(value: Any, names: tuple[str, ...]) -> str:
    if names and isinstance(value, int) and 0 <= value < len(names):
        return names[value]
    tag = text_of(value)
    if not tag:
        raise CellError("a tag for every word", "an empty one", _LISTS_FIX)
    return tag


def text_with_spans(text: Any, spans: Any) -> RawTagged:
    """A text and spans of it as words with tags in BIO: the first word of a span has ``B-``, further ones ``I-``.

    Words are runs of letters and digits, or single other characters; one that a span begins or ends in is cut there.

    Args:
        text: The text.
        spans: Objects with ``start``, ``end`` (behind the last character) and ``label``, or lists of the three.

    Raises:
        CellError: a span lies outside of the text, holds no word, or overlaps another one.
    """
    whole = "" if is_absent(text) else str(text)
    found = sorted(_span(span, whole) for span in ([] if is_absent(spans) else parsed(spans)))
    for (start, end, label), (start_2, end_2, label_2) in itertools.pairwise(found):
        if start_2 < end:
            raise CellError(
                "spans that do not overlap",
                f"{label} at {start}-{end} and {label_2} at {start_2}-{end_2}",
                "keep one of them: a word has one tag",
            )
    edges = {edge for start, end, _ in found for edge in (start, end)}
    words = [part for match in _WORD.finditer(whole) for part in _cut(*match.span(), edges)]
    tags = [OUTSIDE] * len(words)
    for start, end, label in found:
        inside = [index for index, word in enumerate(words) if start <= word[0] and word[1] <= end]
        if not inside:
            raise CellError("spans with a word", f"{label} at {start}-{end}, {whole[start:end]!r}", _SPANS_FIX)
        for index in inside:
            tags[index] = f"{'B' if index == inside[0] else 'I'}-{label}"
    return RawTagged(whole, tuple(words), tuple(tags))


_SPANS_FIX = "count characters from 0, and let end stand behind the last one: text[start:end]"


def is_span(value: Any) -> bool:
    """Whether it can be a span of a text."""
    if isinstance(value, dict):
        return "start" in value and "end" in value
    return isinstance(value, list | tuple) and len(value) == 3 and all(isinstance(edge, int) for edge in value[:2])


def is_spans(value: Any) -> bool:
    """Whether it is a list of spans, also as JSON text."""
    spans = parsed(value)
    return isinstance(spans, list) and all(is_span(span) for span in spans)


def _span(value: Any, text: str) -> tuple[int, int, str]:
    if not is_span(value):
        raise CellError("spans with start, end and label", str(value)[:_SHOWN], _SPANS_FIX)
    if isinstance(value, dict):
        label = next(
            (value[name] for name in ("label", "type", "entity", "tag", "entity_group") if name in value), None
        )
        start, end = value["start"], value["end"]
    else:
        start, end, label = value
    if not isinstance(start, int) or not isinstance(end, int) or not 0 <= start < end <= len(text):
        raise CellError(f"spans inside of the text, here 0 to {len(text)}", f"{start} to {end}", _SPANS_FIX)
    return start, end, text_of(label) or "ENTITY"


def _cut(start: int, end: int, edges: set[int]) -> list[tuple[int, int]]:
    inner = [start, *sorted(edge for edge in edges if start < edge < end), end]
    return list(itertools.pairwise(inner))


def require_tags(name: str, tags: Sequence[Sequence[str]]) -> None:
    """Refuse tags of which nothing can be learned.

    Raises:
        DataError: all words have the same one, or nearly every word one of its own.
    """
    words = sum(map(len, tags))
    kinds = {tag for row in tags for tag in row}
    if len(kinds) < 2:
        raise DataError(
            f"tags to learn must differ, but all {words} words of {name} have {next(iter(kinds), 'none')!r}",
            fix="check the column of the tags, and name it with --label-column",
        )
    if len(kinds) > max(words / 2, 20):
        raise DataError(
            f"tags must come more than once, but {name} has {len(kinds)} of them for {words} words",
            fix="name the column of the tags with --label-column (in a CoNLL file it is the last one)",
        )


def entity_types(names: Sequence[str]) -> list[str]:
    """What the tags stand for, without their prefixes."""
    return sorted({re.sub(r"^[BIESLU]-", "", name) for name in names} - {OUTSIDE})
