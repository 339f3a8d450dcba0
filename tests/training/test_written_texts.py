"""Scores of texts that a model writes, against independent computations, and a run that writes some."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.core.benchmark import BenchmarkSettings, predictions_file
from advisor.core.data import DataSpec
from advisor.core.metrics import ROUGE, ROUGE_SCORES, WRITTEN
from advisor.core.strategy import StrategyConfig
from advisor.measurement.benchmark import with_benchmark
from advisor.training.data.predictions import read_predictions
from advisor.training.data.rows import SourceAndTarget
from advisor.training.quality import mean, resampled_mean
from advisor.training.run_folder import RunFolder
from advisor.training.tasks import get_task
from advisor.training.trainer import train_only
from advisor.training.written_texts import answer_columns, rouge_columns, write_texts
from tests.training.tasks.cases import tiny_task_plan

WORDS = st.lists(st.sampled_from(["cat", "dog", "mat", "sun", "sky"]), min_size=1, max_size=8)


def ngram_f1(said: list[str], right: list[str], size: int) -> float:
    """ROUGE-N by removing one match after the other."""
    grams = [[tuple(words[i : i + size]) for i in range(len(words) - size + 1)] for words in (said, right)]
    left, hits = list(grams[1]), 0
    for gram in grams[0]:
        if gram in left:
            left.remove(gram)
            hits += 1
    return 2 * hits / (len(grams[0]) + len(grams[1])) if hits else 0.0


def longest_common(said: list[str], right: list[str]) -> int:
    """By all subsequences of the first, the longest first."""
    for mask in sorted(range(2 ** len(said)), key=lambda m: -m.bit_count()):
        rest = iter(right)
        if all(word in rest for i, word in enumerate(said) if mask >> i & 1):
            return mask.bit_count()
    return 0


@settings(max_examples=40, deadline=None)
@given(WORDS, st.lists(WORDS, min_size=1, max_size=3))
def test_rouge_counts_common_words_pairs_and_sequences(said: list[str], references: list[list[str]]) -> None:
    found = rouge_columns([" ".join(said)], [[" ".join(words) for words in references]])
    assert found["rouge1"][0] == pytest.approx(max(ngram_f1(said, words, 1) for words in references))
    assert found["rouge2"][0] == pytest.approx(max(ngram_f1(said, words, 2) for words in references))
    wanted = max(2 * longest_common(said, words) / (len(said) + len(words)) for words in references)
    assert found["rougeL"][0] == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("said", "answers", "exact", "f1"),
    [
        ("The Eiffel Tower!", ["Eiffel tower"], 1, 1),
        ("in Paris, France", ["Paris"], 0, 0.5),
        ("Paris", ["London", "paris."], 1, 1),
        ("", ["Paris"], 0, 0),
        ("the", ["an"], 1, 1),
        ("six six", ["six"], 0, 2 / 3),
    ],
)
def test_answers_are_scored_as_by_squad(said: str, answers: list[str], exact: float, f1: float) -> None:
    found = answer_columns([said], [answers])
    assert found["exact_match"][0] == exact
    assert found["answer_f1"][0] == pytest.approx(f1)


def test_rows_without_a_text_have_no_score() -> None:
    found = rouge_columns(["cat", None], [["cat"], ["dog"]])["rouge1"]
    assert found[0] == 1 and math.isnan(found[1]) and mean(found) == 1
    counts = np.array([[1.0, 1.0], [0.0, 2.0]])
    assert resampled_mean(counts, found)[0] == 1 and np.isnan(resampled_mean(counts, found)[1])
    with pytest.raises(ValueError, match="no item"):
        mean(np.array([np.nan]))


@pytest.mark.parametrize(
    ("kind", "names"), [("question-context", {"exact_match", "answer_f1"}), (None, {*ROUGE_SCORES})]
)
def test_answers_and_other_texts_are_scored_differently(kind: str | None, names: set[str]) -> None:
    rows = [SourceAndTarget("q", "cat", ("cat", "dog"))]
    found = get_task("seq2seq-lm").written_columns(DataSpec("x", "jsonl", format=kind), ["dog"], rows)
    assert found.keys() == names and all(column[0] in (0, 1) for column in found.values())


def test_a_model_writes_until_its_time_is_over() -> None:
    class Echo:
        """Writes what it reads."""

        def eval(self) -> None: ...

        def parameters(self) -> Any:
            import torch

            return iter([torch.zeros(1)])

        def generate(self, input_ids: Any, max_new_tokens: int, **options: Any) -> Any:
            assert max_new_tokens == 5 and not options["do_sample"] and "labels" not in options
            return input_ids

    import torch

    data: Any = SimpleNamespace(
        eval_dataset=[1, 2, 3], max_seq_length=5,
        collator=lambda rows: {"input_ids": torch.tensor([[row] for row in rows]), "labels": torch.zeros(1)},
    )  # fmt: skip
    tokenizer: Any = SimpleNamespace(batch_decode=lambda ids, **_: [f"{int(row[0])}" for row in ids])
    assert write_texts(Echo(), data, tokenizer, batch_size=2) == ["1", "2", "3"]
    assert write_texts(Echo(), data, tokenizer, batch_size=2, limit_s=-1.0) == ["1", "2", None]


def test_a_run_measures_what_its_model_writes(tmp_path: Path) -> None:
    plan = tiny_task_plan("seq2seq-lm", tmp_path, StrategyConfig("full", 1e-2, num_train_epochs=6.0), rows=40)
    measured, trained = train_only(plan, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    measured = with_benchmark(
        plan,
        folder,
        measured,
        trained,
        (),
        BenchmarkSettings(),
    )
    assert measured.benchmark is not None and measured.benchmark.quality is not None
    figures = measured.benchmark.quality.figures
    columns, _ = read_predictions(predictions_file(folder.path))
    for metric in ROUGE:
        assert figures[metric.name].value == pytest.approx(float(np.mean(columns[metric.name])))
        assert measured.metrics[metric.name] == figures[metric.name].value
    assert "exact_match" not in figures
    assert all(isinstance(text, str) for text in columns[WRITTEN])
    assert figures["rouge1"].value > 0.4, "half of every target is the same word"
