"""Files as other programs write them: spreadsheets in another country, reports with a title, JSON of several kinds."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from advisor.core.errors import DataError
from advisor.training.data.rows import Completion, ScoredText, SourceAndTarget
from tests.situations.data_attempts import DECODER, Attempt, followed
from tests.situations.test_data_files import BALANCED, classes, delimited, labelled, lines, put

TEXTS = [text for text, _ in labelled()]
NAMED = [{"text": text, "label": label} for text, label in labelled()]


def notes(path: Path, **options: str) -> str:
    return "\n".join(Attempt(path).with_(**options).rows().notes)


def refused(path: Path) -> tuple[Attempt, DataError]:
    attempt = Attempt(path)
    with pytest.raises(DataError) as failure:
        attempt.rows()
    return attempt, failure.value


def workbook(sheets: dict[str, Sequence[Sequence[Any]]]) -> bytes:
    from openpyxl import Workbook

    book = Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    content = io.BytesIO()
    book.save(content)
    return content.getvalue()


# --- spreadsheets -----------------------------------------------------------------------------------------------------


def test_numbers_with_decimal_commas(tmp_path: Path) -> None:
    scores = [f"{1 + i % 4},{i % 10}" if i % 3 else str(1 + i % 4) for i in range(40)]
    text = "Text;Bewertung\r\n" + "".join(f"{t} Größe M;{s}\r\n" for t, s in zip(TEXTS, scores, strict=True))
    path = put(tmp_path, "export.csv", text.encode("cp1252"))
    rows = Attempt(path).rows()
    values = [row.value for row in (*rows.train, *rows.eval) if isinstance(row, ScoredText)]
    assert sorted(values) == sorted(float(score.replace(",", ".")) for score in scores)
    assert "commas in the numbers of 'Bewertung' are read as decimal points" in "\n".join(rows.notes)


def test_commas_that_may_stand_between_thousands_stay(tmp_path: Path) -> None:
    text = "text;label\n" + "".join(f"{t};{('1,000', '2,500')[i % 2]}\n" for i, t in enumerate(TEXTS))
    assert classes(put(tmp_path, "export.csv", text)) == {"1,000": 20, "2,500": 20}


@pytest.mark.parametrize("name", ["report.csv", "report.xlsx"])
def test_a_title_above_the_header(tmp_path: Path, name: str) -> None:
    rows = [["Visits in May", ""], ["", ""], ["text", "label"], *labelled()]
    content = workbook({"May": rows}) if name.endswith("xlsx") else "\n".join(",".join(row) for row in rows).encode()
    path = put(tmp_path, name, content)
    assert classes(path) == BALANCED
    assert "before the header are left out" in notes(path)


def test_a_cover_sheet(tmp_path: Path) -> None:
    sheets = {"cover": [["Visits"]], "all visits": [["text", "label"], *labelled()]}
    attempt, error = refused(put(tmp_path, "visits.xlsx", workbook(sheets)))
    corrected = followed(attempt, error)
    assert corrected is not None and len(corrected.rows().train) == 36


def test_columns_without_a_name(tmp_path: Path) -> None:
    """Those that hold something are named as unused, a delimiter at the end of each line is none."""
    empty = put(tmp_path, "a.csv", "text,label,,\n" + "".join(f"{t},{label},,\n" for t, label in labelled()))
    assert classes(empty) == BALANCED and "not used" not in notes(empty)
    full = put(tmp_path, "b.csv", "text,label,\n" + "".join(f"{t},{label},seen\n" for t, label in labelled()))
    assert classes(full) == BALANCED and "not used: 'column3'" in notes(full)


def test_comments_above_the_header(tmp_path: Path) -> None:
    path = put(tmp_path, "visits.csv", "# exported in May\n# by hand\n" + delimited(labelled(), ";", "text{}label\n"))
    assert classes(path) == BALANCED and "2 lines in front that begin with #" in notes(path)
    header = put(tmp_path, "other.csv", delimited(labelled(), "\t", "#text{}label\n"))
    assert classes(header, text_column="#text") == BALANCED


# --- JSON -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("between", ["\n", ",\n", " "])
@pytest.mark.parametrize("indent", [None, 1])
def test_objects_one_after_another(tmp_path: Path, between: str, indent: int | None) -> None:
    path = put(tmp_path, "visits.json", between.join(json.dumps(row, indent=indent) for row in NAMED))
    assert classes(path) == BALANCED


def test_an_object_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    _, error = refused(put(tmp_path, "visits.jsonl", lines(NAMED) + '{"text": "The har'))
    assert "line 41" in error.message


def test_columns_and_rows_apart(tmp_path: Path) -> None:
    import pandas

    path = put(tmp_path, "visits.json", pandas.DataFrame(NAMED).to_json(orient="split"))
    assert classes(path) == BALANCED


def test_questions_by_paragraph(tmp_path: Path) -> None:
    def question(i: int) -> dict[str, Any]:
        answers = [{"text": f"answer {i}", "answer_start": 0}] if i else []
        return {"id": str(i), "question": f"what is {i}?", "answers": answers, "is_impossible": not i}

    paragraphs = [{"context": text, "qas": [question(i)]} for i, text in enumerate(TEXTS)]
    file = {"version": "v2.0", "data": [{"title": "Visits", "paragraphs": paragraphs}]}
    rows = Attempt(put(tmp_path, "squad.json", json.dumps(file)), DECODER).with_(task="seq2seq-lm").rows()
    found = {row.source: row.target for row in (*rows.train, *rows.eval) if isinstance(row, SourceAndTarget)}
    assert len(found) == 39 and rows.findings.empty_rows == 1
    assert found[f"question: what is 7? context: {TEXTS[7]}"] == "answer 7"


def test_objects_inside_of_rows_are_named(tmp_path: Path) -> None:
    rows = [{"data": {"text": row["text"], "by": 1}, "annotation": {"label": row["label"]}} for row in NAMED]
    _, error = refused(put(tmp_path, "tool.jsonl", lines(rows)))
    assert error.fix is not None and "data.text, data.by, annotation.label" in error.fix


@pytest.mark.parametrize("text", [{"en": "a", "de": "b"}, ["a", "b"]])
def test_texts_that_are_no_text_are_not_replaced_by_labels(tmp_path: Path, text: Any) -> None:
    _, error = refused(put(tmp_path, "visits.jsonl", lines([row | {"text": text} for row in NAMED])))
    assert error.fix == "write the text of every row into one column"


def test_labels_that_are_objects_are_not_sent_to_another_task(tmp_path: Path) -> None:
    _, error = refused(put(tmp_path, "visits.jsonl", lines([row | {"label": {"name": row["label"]}} for row in NAMED])))
    assert error.fix == "write one of its fields into a column of its own"


def test_inputs_and_targets(tmp_path: Path) -> None:
    rows = [{"inputs": text, "targets": f"answer {i}"} for i, text in enumerate(TEXTS)]
    found = Attempt(put(tmp_path, "flan.jsonl", lines(rows)), DECODER).rows()
    assert {row.completion for row in found.train if isinstance(row, Completion)} > {"answer 7", "answer 8"} - {
        row.completion for row in found.eval if isinstance(row, Completion)
    }


# --- what is said -----------------------------------------------------------------------------------------------------


def test_labels_that_look_like_missing_ones(tmp_path: Path) -> None:
    path = put(tmp_path, "visits.csv", delimited(labelled(["gloomy", "lovely", "N/A", "NA"])))
    assert "2 classes ('N/A', 'NA') look like missing labels; --drop-labels N/A,NA leaves" in notes(path)
    assert classes(path, drop_labels="N/A,NA") == {"gloomy": 10, "lovely": 10}


@pytest.mark.parametrize("mark", ["|", "; "])
def test_labels_that_are_several_in_one(tmp_path: Path, mark: str) -> None:
    names = ["film", f"film{mark}praise", "praise", f"praise{mark}film"]
    assert "look like several labels in one" in notes(put(tmp_path, "a.csv", delimited(labelled(names))))
    plain = ["film", "film noir", "oil and gas", "gas"]
    assert "several labels" not in notes(put(tmp_path, "b.csv", delimited(labelled(plain))))


def test_a_table_that_is_called_text(tmp_path: Path) -> None:
    table = put(tmp_path, "visits.txt", delimited(labelled(), "\t"))
    assert "looks like a table" in notes(table, task="masked-lm")
    assert classes(table.rename(tmp_path / "visits.txt.csv")) == BALANCED
    tagged = put(tmp_path, "train.txt", "".join(f"__label__{label} {text}\n" for text, label in labelled()))
    assert "labels of fastText" in notes(tagged, task="masked-lm")
    prose = put(tmp_path, "prose.txt", "".join(f"{text} It rained, too.\n" for text in TEXTS))
    assert "table" not in notes(prose, task="masked-lm")


def test_a_cloned_data_set(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "README.md").write_text("# Visits")
    for name in ("train", "test"):
        put(tmp_path / "data", f"{name}-00000-of-00001.jsonl", lines(NAMED))
    _, error = refused(tmp_path)
    assert error.fix is not None and error.fix.startswith("name one of the files in it: data/train-00000")
