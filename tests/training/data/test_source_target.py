"""Texts and what is written from them, for sequence-to-sequence models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from advisor.core.errors import DataError
from advisor.training.data import Rows, load_rows, resolve_data
from advisor.training.data.collators import PaddingCollator
from advisor.training.data.encoding import EncodedDataset, encode
from advisor.training.data.rows import SourceAndTarget
from advisor.training.detection import choose_task

TASK = "seq2seq-lm"


def rows_of(folder: Path, records: list[Any], **options: Any) -> Rows:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return load_rows(resolve_data(str(path), task=TASK, **options), TASK)


@pytest.mark.parametrize("columns", [("article", "highlights"), ("prompt", "completion"), ("dialogue", "summary")])
def test_sources_and_targets_by_the_names_of_their_columns(tmp_path: Path, columns: tuple[str, str]) -> None:
    rows = rows_of(tmp_path, [{columns[0]: f"long {i}", columns[1]: f"short {i}"} for i in range(10)])
    assert rows.kind == "source-target"
    assert SourceAndTarget("long 3", "short 3", ("short 3",)) in (*rows.train, *rows.eval)


def test_named_columns(tmp_path: Path) -> None:
    records = [{"english": f"a {i}", "german": f"b {i}"} for i in range(10)]
    rows = rows_of(tmp_path, records, text_column="english", text_pair_column="german")
    assert SourceAndTarget("a 3", "b 3", ("b 3",)) in (*rows.train, *rows.eval)


def test_questions_about_a_text_keep_every_answer(tmp_path: Path) -> None:
    """Questions that the text does not answer are counted and left out."""
    answers = {"text": ["Ada", "Ada L."], "answer_start": [0, 0]}
    records: list[Any] = [{"question": f"who {i}?", "context": "Ada wrote.", "answers": answers} for i in range(10)]
    rows = rows_of(tmp_path, [*records, {**records[0], "answers": {"text": [], "answer_start": []}}])
    wanted = SourceAndTarget("question: who 3? context: Ada wrote.", "Ada", ("Ada", "Ada L."))
    assert wanted in (*rows.train, *rows.eval) and rows.findings.empty_rows == 1


@pytest.mark.parametrize(
    ("records", "told"),
    [
        ([{"document": "a", "summary": "b"}, {"document": "c", "summary": " "}], "row 2 of .* has an empty one"),
        ([{"document": "", "summary": ""}] * 3, "none is left"),
        ([{"question": "q", "context": "c", "answers": {"text": []}}] * 3, "none is left"),
        ([{"text": "a", "label": "b"}] * 30, "labelled texts, which seq2seq-lm is not trained on"),
        ([{"x": "a", "y": "b"}] * 3, "the text column must be known"),
    ],
)
def test_without_targets_nothing_is_learned(tmp_path: Path, records: Any, told: str) -> None:
    with pytest.raises(DataError, match=told):
        rows_of(tmp_path, records)


def test_both_sides_are_cut_and_padded_to_one_length(encoder_tokenizer: Any) -> None:
    rows = [SourceAndTarget("good", "good film a the very", ()), SourceAndTarget("a the very red blue", "bad", ())]
    dataset = EncodedDataset(encode(rows, encoder_tokenizer, max_seq_length=6))
    assert dataset.lengths.tolist() == [6, 6]
    assert [len(dataset[0][name]) for name in ("input_ids", "labels")] == [3, 6]
    batch = PaddingCollator(0, 6)([dataset[0], dataset[-1]])
    assert batch["input_ids"].shape == batch["labels"].shape == batch["attention_mask"].shape == (2, 6)
    assert (batch["labels"] == -100).sum() == 3 and batch["attention_mask"].sum() == 3 + 6


def test_an_encoder_decoder_means_it(tmp_path: Path) -> None:
    config = {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True}
    (tmp_path / "config.json").write_text(json.dumps(config))
    path = tmp_path / "rows.jsonl"
    for columns in (("document", "summary"), ("question", "context", "answers"), ("prompt", "completion")):
        rows = [{name: f"{name} {i}" for name in columns} for i in range(30)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        assert choose_task(str(tmp_path), str(path)) == TASK
