"""Estimated token lengths against those of two real tokenizers."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from advisor.core.model import ModelSpec, Task
from advisor.training.data import load_rows, resolve_data
from advisor.training.data.stand_in_tokenizer import stand_in_tokenizer


def bare(task: Task) -> ModelSpec:
    return ModelSpec("config.json", "config", task, {}, "bert", 1, 1, 1, 1, None)


@pytest.mark.parametrize(("model", "task"), [("minilm_dir", "sequence-classification"), ("smollm2_dir", "causal-lm")])
def test_mean_length_is_within_five_percent(
    model: str, task: Task, movie_sentences: Path, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(model)
    rows = load_rows(resolve_data("movie-sentences", task="sequence-classification"), "sequence-classification").train
    texts = [row.texts[0] for row in rows[:1000]]
    own = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
    own.no_padding()
    own.no_truncation()
    real = sum(len(encoded.ids) for encoded in own.encode_batch(texts))
    estimated = sum(len(ids) for ids in stand_in_tokenizer(bare(task))(texts)["input_ids"])
    assert estimated == pytest.approx(real, rel=0.05)


def test_pairs_and_padding() -> None:
    tokenizer = stand_in_tokenizer(bare("sequence-classification"))
    encoded = tokenizer("a b", "c")
    assert len(encoded["input_ids"]) == 6
    assert tokenizer.pad_token_id == 0
