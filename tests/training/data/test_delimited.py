"""Delimiters, quoting and headers of delimited files: detected, said, or refused with the line."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.core.data import ReadOptions
from advisor.core.errors import DataError
from advisor.training.data.delimited import Delimited, parse_delimited
from advisor.training.data.formats import FORMATS
from advisor.training.data.tables import KNOWN_NAMES, read_table


def parse(text: str, **options: Any) -> Delimited:
    return parse_delimited(text, ReadOptions(**options), KNOWN_NAMES, name="data.csv")


def test_names_that_formats_look_for_show_that_a_line_is_a_header() -> None:
    wanted = {name for row_format in FORMATS.all() for part in row_format.parts for name in part.columns}
    assert wanted - KNOWN_NAMES == {"completions", "labels", "system_prompt"} - KNOWN_NAMES


@pytest.mark.parametrize(
    ("text", "names", "first"),
    [
        ('"Review, long";stars\n"good, mostly";5\nbad;1\n', ("Review, long", "stars"), ["good, mostly", "5"]),
        ("sentence\tlabel\na, b, c\t1\nd\t0\n", ("sentence", "label"), ["a, b, c", "1"]),
        ("sep=;\ntext;label\na, b;1\n", ("text", "label"), ["a, b", "1"]),
        ("text|label\na, b; c|1\n", ("text", "label"), ["a, b; c", "1"]),
        ("text,label\ra,1\rb,0\r", ("text", "label"), ["a", "1"]),
        ('"text","label"\n"1","fine","pos"\n"2","awful","neg"\n', ("", "text", "label"), ["1", "fine", "pos"]),
        ("0,1\nfine,pos\nawful,neg\n", ("0", "1"), ["fine", "pos"]),
    ],
    ids=["quoted header", "tab", "sep line", "bar", "old Mac lines", "row names of R", "numbered columns of pandas"],
)
def test_usual_files_are_read_without_a_word(text: str, names: tuple[str, ...], first: list[str]) -> None:
    parsed = parse(text)
    assert (parsed.names, parsed.rows[0], parsed.notes) == (names, first, ())


GLUE = "label\tsentence\n" + "".join(f"{i % 2}\tplain sentence {i}\n" for i in range(20))


def test_marks_that_enclose_nothing_are_text() -> None:
    """As in the TSV files of GLUE: a field begins with a mark that is closed rows later, or in the middle of itself."""
    lines = GLUE.splitlines()
    lines[5] = '1\t"It begins with a mark'
    lines[12] = '0\t"So does this one'
    lines[15] = '1\t"Quoted" in part'
    parsed = parse("\n".join(lines))
    assert len(parsed.rows) == 20
    assert [parsed.rows[i][1] for i in (4, 14)] == ['"It begins with a mark', '"Quoted" in part']
    assert "quoting=double" in parsed.notes[0]


def test_a_field_that_is_quoted_as_it_should_but_holds_rows_is_refused_with_its_line() -> None:
    text = "text,label\nfine,pos\n" + '"swallowed,neg\nmore,pos\nlast",neg\n' + "good,pos\nbad,neg\n"
    with pytest.raises(DataError, match="line 3 swallows lines that look like rows") as refused:
        parse(text)
    assert "quoting=none" in str(refused.value.fix)
    assert len(parse(text, quoting="double").rows) == 4
    assert len(parse(text, quoting="none").rows) == 6


def test_an_open_mark_that_no_reading_explains_is_refused_with_its_line() -> None:
    with pytest.raises(DataError, match="begins in line 3 cannot be read: a quoted field is not closed"):
        parse('text,label\n"fine, mostly",pos\n"bad,neg\nworse, and worse,neg\n')


def test_texts_may_run_over_lines() -> None:
    parsed = parse('text,label\n"first line\nsecond, and last\n",pos\n"x ""y"" z",neg\nplain,pos\nw,neg\n')
    assert [row[0] for row in parsed.rows[:2]] == ["first line\nsecond, and last\n", 'x "y" z']
    assert parsed.notes == ()


def test_backslashes_before_marks_are_undone_and_others_kept() -> None:
    parsed = parse('text,label\n"She said \\"yes, sir\\" twice",pos\n"in C:\\new\\table",neg\n"twice \\\\ here",pos\n')
    assert [row[0] for row in parsed.rows] == ['She said "yes, sir" twice', "in C:\\new\\table", "twice \\ here"]
    assert "backslash" in parsed.notes[0]


def test_one_name_means_one_column() -> None:
    parsed = parse("text\nwell, this has commas\nthis has not\n")
    assert parsed.rows == [["well, this has commas"], ["this has not"]]
    assert "one column" in parsed.notes[0]


@pytest.mark.parametrize(
    "text", ["I like it,pos\nso bad,neg\nmeh,neg\nfine,pos\n", '"3","Oil falls","Long"\n"2","A","B"\n', "a,0.5\nb,1\n"]
)
def test_a_missing_header_is_noticed_and_said(text: str) -> None:
    parsed = parse(text)
    assert (parsed.names[0], parsed.has_header, len(parsed.rows)) == ("column1", False, text.count("\n"))
    assert "header=yes" in parsed.notes[0]
    assert len(parse(text, header=True).rows) == len(parsed.rows) - 1


def test_names_of_columns_must_differ() -> None:
    with pytest.raises(DataError, match="'text' occurs twice"):
        parse("text,text\na,b\n")


CELLS = st.text(st.sampled_from('ab ",;\t\n\\é'), max_size=6)


@settings(max_examples=200)
@given(
    rows=st.lists(st.tuples(CELLS, st.sampled_from(["pos", "neg"])), min_size=1, max_size=8),
    delimiter=st.sampled_from(",;\t"),
    quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL, csv.QUOTE_NONNUMERIC]),
)
def test_what_pythons_writer_writes_is_read_back_or_refused(
    rows: list[tuple[str, str]], delimiter: str, quoting: Any
) -> None:
    """Never read as something else; what looks like swallowed rows may be refused."""
    stream = io.StringIO(newline="")
    csv.writer(stream, delimiter=delimiter, quoting=quoting).writerows([("text", "label"), *rows])
    try:
        parsed = parse(stream.getvalue())
    except DataError as refused:
        assert "swallows" in str(refused)
        return
    assert [tuple(row) for row in parsed.rows] == rows


def test_excel_sheets(tmp_path: Path) -> None:
    import openpyxl

    book = openpyxl.Workbook()
    book.active.append(["text", "label", None])
    for row in (["good", 1, None], ["bad", 0.0, None], [None, None, None], ["=1/0", 1, None]):
        book.active.append(row)
    book.create_sheet("Other").append(["only", "text"])
    book.save(tmp_path / "export.xlsx")
    table = read_table(tmp_path / "export.xlsx", "excel")
    assert list(table.columns) == ["text", "label"] and table.num_rows == 3
    assert "Other" in table.notes[0]
    other = read_table(tmp_path / "export.xlsx", "excel", ReadOptions(sheet="Other", header=False))
    assert dict(other.columns) == {"column1": ["only"], "column2": ["text"]}
    with pytest.raises(DataError, match="none called 'Absent'"):
        read_table(tmp_path / "export.xlsx", "excel", ReadOptions(sheet="Absent"))
    (tmp_path / "no.xlsx").write_bytes(b"PK not a workbook")
    with pytest.raises(DataError, match="must be an Excel workbook"):
        read_table(tmp_path / "no.xlsx", "excel")
