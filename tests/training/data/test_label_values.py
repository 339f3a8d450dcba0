"""Labels that are not one class a row: several of them, or numbers."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from advisor.core.errors import DataError
from advisor.training.data import Rows, load_rows, resolve_data
from advisor.training.data.rows import MultiLabelledText, ScoredText
from advisor.training.detection import choose_task

MULTI, NUMBERS, CLASSES = "multi-label-classification", "text-regression", "sequence-classification"


def rows_of(path: Path, task: str, **options: Any) -> Rows:
    return load_rows(resolve_data(str(path), task=task, **options), task)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Columns as one of the file formats."""

    def written(suffix: str, columns: dict[str, list[Any]]) -> Path:
        path = tmp_path / f"data.{suffix}"
        rows = list(zip(*columns.values(), strict=True))
        if suffix == "csv":
            with path.open("w", encoding="utf-8", newline="") as stream:
                texts = [[json.dumps(v) if isinstance(v, list) else v for v in row] for row in rows]
                csv.writer(stream).writerows([list(columns), *texts])
        elif suffix == "parquet":
            import pyarrow
            import pyarrow.parquet

            pyarrow.parquet.write_table(pyarrow.table(columns), path)
        else:
            path.write_text("".join(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows))
        return path

    return written


TEXTS = [f"text {i}" for i in range(30)]
SETS = [[name for bit, name in enumerate("abc") if i % 8 & 1 << bit] for i in range(30)]
FLAGS = {name: [int(name in labels) for labels in SETS] for name in "abc"}


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("columns", [{"labels": SETS}, FLAGS], ids=["lists", "flags"])
def test_several_labels_are_the_same_from_every_file(
    write: Callable[..., Path], suffix: str, columns: dict[str, list[Any]]
) -> None:
    rows = rows_of(write(suffix, {"text": TEXTS, **columns}), MULTI)
    assert rows.kind == "multi-labelled" and rows.label_names == ("a", "b", "c")
    for row in (*rows.train, *rows.eval):
        assert isinstance(row, MultiLabelledText)
        assert [rows.label_names[i] for i in row.labels] == SETS[TEXTS.index(row.text)]
    assert "--task sequence-classification" in rows.notes[0]


def test_vectors_of_flags_are_no_sets(write: Callable[..., Path]) -> None:
    """A set holds nothing twice."""
    vectors = [[int(name in labels) for name in "abc"] for labels in SETS]
    rows = rows_of(write("jsonl", {"text": TEXTS, "labels": vectors}), MULTI)
    assert rows.label_names == ("label1", "label2", "label3")


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_numbers_of_pairs_of_texts(write: Callable[..., Path], suffix: str) -> None:
    numbers = [i / 4 for i in range(30)]
    rows = rows_of(write(suffix, {"sentence1": TEXTS, "sentence2": TEXTS[::-1], "score": numbers}), NUMBERS)
    assert rows.kind == "scored" and rows.label_names == () and rows.class_counts == {}
    for row in (*rows.train, *rows.eval):
        assert isinstance(row, ScoredText) and row.pair
        assert row.value == numbers[TEXTS.index(row.text)]


def model_of(folder: Path, architecture: str) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "x", "architectures": [architecture]}))
    return str(folder)


@pytest.mark.parametrize(
    ("columns", "options", "encoder", "decoder"),
    [
        ({"labels": SETS}, {}, MULTI, MULTI),
        (FLAGS, {}, MULTI, "causal-lm"),
        ({"label": [i / 4 for i in range(30)]}, {}, NUMBERS, NUMBERS),
        ({"label": [float(i % 3) for i in range(30)]}, {}, CLASSES, CLASSES),
        ({"label": [i % 3 + 0.5 for i in range(30)]}, {"names_classes": True}, CLASSES, CLASSES),
        ({"price": [i / 4 for i in range(30)]}, {}, NUMBERS, "causal-lm"),
        ({"votes": [7 * i for i in range(30)]}, {}, CLASSES, "causal-lm"),  # refused when it is read
    ],
)  # fmt: skip
def test_the_task_that_is_meant(
    write: Callable[..., Path], tmp_path: Path, columns: Any, options: Any, encoder: str, decoder: str
) -> None:
    """Whole numbers are classes; what beside a text may be something else is a label for encoders only."""
    path = str(write("jsonl", {"text": TEXTS, **columns}))
    models = (model_of(tmp_path / "e", "BertForMaskedLM"), model_of(tmp_path / "d", "LlamaForCausalLM"))
    assert tuple(choose_task(model, path, **options) for model in models) == (encoder, decoder)


def test_whole_numbers_are_learned_as_numbers_when_asked(write: Callable[..., Path]) -> None:
    rows = rows_of(write("csv", {"text": TEXTS, "label": list(range(30))}), NUMBERS)
    assert {row.value for row in (*rows.train, *rows.eval) if isinstance(row, ScoredText)} == set(map(float, range(30)))


@pytest.mark.parametrize(
    ("task", "columns", "options", "told", "fix"),
    [
        (MULTI, {"labels": ["a"] * 30}, {"label_column": "labels"}, "row 1 .* has 'a'", CLASSES),
        (MULTI, {"labels": [["a"]] * 30}, {}, "at least two labels, but .* has 1", CLASSES),
        (MULTI, {"labels": [[f"a{i}"] for i in range(30)]}, {}, "30 of them in 30 rows", "--drop-labels"),
        (MULTI, {"labels": [["a"], *SETS[1:29], None]}, {}, "1 of 30 rows .* have none", "--drop-unlabelled"),
        (MULTI, {"labels": [*SETS[:29], [{"a": 1}]]}, {}, "row 30", "0 and 1 per label"),
        (
            MULTI,
            {"a": [0, 1] * 15, "b": [0, 2] * 15},
            {"label_column": "a,b"},
            "row 2 .* has '2' in 'b'",
            "--label-column",
        ),
        (MULTI, {"labels": SETS}, {"label_map": (("x", "y"),)}, "--label-map must name labels", "'a'"),
        (CLASSES, {"labels": SETS}, {}, "a label must be text|texts with several labels", MULTI),
        (CLASSES, {"label": [i / 4 for i in range(30)]}, {}, "must be classes|texts with a number", NUMBERS),
        (NUMBERS, {"label": [0.5] * 30}, {}, "must differ, but all 30", "--label-column"),
        (NUMBERS, {"label": [*(i / 4 for i in range(29)), "3,5"]}, {}, "row 30 of .* has '3,5'", "with a point"),
        (NUMBERS, {"label": [*(i / 4 for i in range(29)), "inf"]}, {}, "row 30", "with a point"),
        (NUMBERS, {"label": [*(i / 4 for i in range(29)), None]}, {}, "1 of 30 rows", "--drop-unlabelled"),
        (NUMBERS, {"label": [i / 4 for i in range(30)]}, {"drop_labels": ("0.5",)}, "name classes", CLASSES),
    ],
)
def test_bad_labels_are_refused_with_what_helps(
    write: Callable[..., Path], task: str, columns: Any, options: Any, told: str, fix: str
) -> None:
    with pytest.raises(DataError, match=told) as refused:
        rows_of(write("jsonl", {"text": TEXTS, **columns}), task, **options)
    assert fix in str(refused.value.fix)


def test_labels_that_training_has_not_are_refused(write: Callable[..., Path], tmp_path: Path) -> None:
    path = write("jsonl", {"text": TEXTS, "labels": SETS})
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps({"text": "new", "labels": ["a", "d"]}) + "\n")
    with pytest.raises(DataError, match="'d' do not"):
        rows_of(path, MULTI, eval_source=str(other))
