from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from advisor.core.errors import DataError
from advisor.training.data.tables import read_table, read_text

CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_csv_delimiters_are_recognised(write_csv: Callable[..., Path], delimiter: str) -> None:
    path = write_csv([["text", "label"], ["a, b; c", "1"]], delimiter=delimiter)
    assert read_table(path, "csv").columns == {"text": ["a, b; c"], "label": ["1"]}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(rows=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=8))
def test_any_text_survives_csv(tmp_path: Path, rows: list[tuple[str, str]]) -> None:
    stream = io.StringIO(newline="")
    csv.writer(stream, quoting=csv.QUOTE_ALL).writerows([("text", "label"), *rows])
    (tmp_path / "any.csv").write_bytes(stream.getvalue().encode())
    table = read_table(tmp_path / "any.csv", "csv")
    assert list(zip(table.column("text"), table.column("label"), strict=True)) == rows


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(rows=st.lists(st.fixed_dictionaries({"text": CELLS, "label": st.integers()}), min_size=1, max_size=8))
def test_any_text_survives_jsonl(tmp_path: Path, rows: list[dict[str, object]]) -> None:
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (tmp_path / "any.jsonl").write_bytes("\n".join(lines).encode())
    assert read_table(tmp_path / "any.jsonl", "jsonl").column("text") == [row["text"] for row in rows]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(content=st.binary(max_size=200), kind=st.sampled_from(["csv", "jsonl", "parquet"]))
def test_bytes_are_read_or_refused_but_never_crash(tmp_path: Path, content: bytes, kind: str) -> None:
    path = tmp_path / f"any.{kind}"
    path.write_bytes(content)
    try:
        assert read_table(path, kind).num_rows > 0
    except DataError as refused:
        assert refused.exit_code == 2


def test_byte_order_mark_and_windows_lines(tmp_path: Path) -> None:
    path = tmp_path / "excel.csv"
    path.write_bytes(b"\xef\xbb\xbftext,label\r\ngood,1\r\n\r\nbad,0\r\n")
    assert read_table(path, "csv").columns == {"text": ["good", "bad"], "label": ["1", "0"]}


def test_json_list(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text('[{"text": "a"}, {"text": "b", "label": 1}]')
    assert read_table(path, "jsonl").columns == {"text": ["a", "b"], "label": [None, 1]}


ROWS = [{"text": "a", "label": 1}, {"text": "b", "label": 0}]


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(ROWS, indent=2),
        json.dumps({"text": {"0": "a", "1": "b"}, "label": {"0": 1, "1": 0}}),
        json.dumps({"text": ["a", "b"], "label": [1, 0]}, indent=1),
        json.dumps({"version": 2, "data": ROWS}),
        "".join(json.dumps(row) + "\n" for row in ROWS),
    ],
    ids=["list", "columns by row", "columns", "rows under a key", "lines"],
)
def test_json_comes_in_many_shapes(tmp_path: Path, content: str) -> None:
    path = tmp_path / "rows.json"
    path.write_text(content)
    assert dict(read_table(path, "jsonl").columns) == {"text": ["a", "b"], "label": [1, 0]}


def test_a_single_line_is_a_row_and_not_columns(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"words": ["a", "b"], "tags": [0, 1]}\n')
    assert dict(read_table(path, "jsonl").columns) == {"words": [["a", "b"]], "tags": [[0, 1]]}


def test_parquet(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", None], "label": [1, 0]}), path)
    table = read_table(path, "parquet")
    assert dict(table.columns) == {"text": ["a", None], "label": [1, 0]}
    assert (table.num_rows, list(table.columns)) == (2, ["text", "label"])


def test_half_characters_become_text(tmp_path: Path) -> None:
    path = tmp_path / "cut.jsonl"
    path.write_text('{"text": "cut \\ud83d", "label": "a"}\n{"text": "whole \\ud83d\\ude00", "label": "b"}\n')
    assert read_table(path, "jsonl").column("text") == ["cut \ufffd", "whole \U0001f600"]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.csv", b"", "at least one row"),
        ("a.csv", b"text,label\n", "at least one row"),
        ("a.csv", b"text,text\na,b\n", "occurs twice"),
        ("a.csv", b"text,label\na,b,c\n", "line 2 has 3 fields, the first one has 2"),
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', "line 2"),
        ("a.jsonl", b"[1, 2]\n", "must be a JSON object"),
        ("a.jsonl", b"[" * 100_000, "nested too deeply"),
        ("a.jsonl", b"\n\n", "at least one row"),
        ("a.parquet", b"PAR1 not really", "must be Parquet"),
    ],
)
def test_broken_files_are_explained(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=told):
        read_table(path, {"csv": "csv", "jsonl": "jsonl", "parquet": "parquet"}[name[2:]])


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is none at"):
        read_text(tmp_path / "absent.txt")
    with pytest.raises(DataError, match="another folder"):
        read_text(tmp_path)


def test_wrong_column_lists_the_columns(write_csv: Callable[..., Path]) -> None:
    table = read_table(write_csv([["text", "label"], ["a", "1"]]), "csv")
    with pytest.raises(DataError) as refused:
        table.column("sentence")
    assert "'text', 'label'" in str(refused.value)
