"""The same data gives the same answer from CSV, TSV, JSONL, Parquet and a saved `datasets` folder."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from advisor.core.errors import DataError
from advisor.training.data.loading import read_rows
from advisor.training.data.resolving import resolve_data
from advisor.training.data.rows import LabelledText

TASK = "sequence-classification"
Records = list[dict[str, Any]]


def write_csv(records: Records, path: Path) -> None:
    """As pandas does: a column of whole numbers with gaps is one of floats, a missing value is an empty field."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(list(records[0]))
        writer.writerows(["" if _is_missing(value) else value for value in record.values()] for record in records)


def write_tsv(records: Records, path: Path) -> None:
    with path.open("w", encoding="utf-16", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t", quoting=csv.QUOTE_ALL)
        writer.writerow(list(records[0]))
        writer.writerows(["" if _is_missing(value) else value for value in record.values()] for record in records)


def write_jsonl(records: Records, path: Path) -> None:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")


def write_parquet(records: Records, path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    columns = {name: pyarrow.array([record[name] for record in records]) for name in records[0]}
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


def write_folder(records: Records, path: Path) -> None:
    import datasets

    shutil.rmtree(path, ignore_errors=True)
    datasets.Dataset.from_list(records).save_to_disk(str(path))


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


WRITERS: dict[str, Callable[[Records, Path], None]] = {
    "rows.csv": write_csv,
    "rows.tsv": write_tsv,
    "rows.jsonl": write_jsonl,
    "rows.parquet": write_parquet,
    "folder": write_folder,
}

LABELS = {
    "bool": st.booleans(),
    "int": st.integers(-3, 3),
    "large int": st.sampled_from([10**15, 2**53 + 1, -(2**60)]),
    "whole float": st.sampled_from([0.0, 1.0, 2.0, -0.0, 1e16]),
    "float": st.sampled_from([0.0, 0.5, 1.0, 1e-5]),
    "string": st.sampled_from(["pos", "neg ", " neg", "Ünsure", "1st", "a,b", 'say "x"', "none", "nan", "[x", "True"]),
    "digits": st.sampled_from(["0", "1", "01", "2.0"]),
    "flag words": st.sampled_from(["True", "false", "TRUE"]),
    "list": st.lists(st.integers(0, 3), min_size=1, max_size=2),
}
TEXTS = st.text(st.sampled_from("abc déß“”'\"\n;|.–😀"), max_size=12)


@st.composite
def tables(draw: st.DrawFn) -> Records:
    """Rows with labels of one type, some of them missing, in few or many rows."""
    label = LABELS[draw(st.sampled_from(sorted(LABELS)))]
    if draw(st.booleans()):
        label = st.one_of(label, label, label, st.none())
    texts = draw(st.lists(st.one_of(TEXTS, TEXTS, TEXTS, st.none()), min_size=2, max_size=12))
    return [{"text": text, "label": draw(label)} for text in texts]


def answer(path: Path, drop_unlabelled: bool) -> Any:
    """Rows with the names of their classes, or the rule that they break."""
    try:
        spec = resolve_data(str(path), task=TASK, drop_unlabelled=drop_unlabelled)
        rows = read_rows(replace(spec, eval_fraction=0.3), TASK)
    except DataError as refused:
        return refused.message.partition(", but")[0]
    parts = [[(row.text, rows.label_names[row.label]) for row in part if isinstance(row, LabelledText)] for part in
             (rows.train, rows.eval)]  # fmt: skip
    return rows.fingerprint, rows.findings, parts


def check(records: Records, drop_unlabelled: bool, folder: Path) -> None:
    answers = {}
    for name, write in WRITERS.items():
        write(records, folder / name)
        answers[name] = answer(folder / name, drop_unlabelled)
    assert all(found == answers["rows.jsonl"] for found in answers.values()), answers


FIXTURES = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@settings(max_examples=25, deadline=None, suppress_health_check=FIXTURES)
@given(records=tables(), drop_unlabelled=st.booleans())
def test_every_format_of_files_gives_the_same_answer(tmp_path: Path, records: Records, drop_unlabelled: bool) -> None:
    check(records, drop_unlabelled, tmp_path)


@pytest.mark.slow
@settings(max_examples=2000, deadline=None, suppress_health_check=FIXTURES)
@given(records=tables(), drop_unlabelled=st.booleans())
def test_every_format_of_files_gives_the_same_answer_often(
    tmp_path: Path, records: Records, drop_unlabelled: bool
) -> None:
    check(records, drop_unlabelled, tmp_path)
