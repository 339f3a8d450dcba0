from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from advisor.core.data import DataProfile
from advisor.core.errors import DataError
from advisor.core.model import ModelSpec
from advisor.training.data import prepare_data, profile_data, resolve_data
from advisor.training.data import profiling as profiling_module
from advisor.training.data.profiling import data_findings
from tests.core.records import data_profile

Spec = Callable[..., ModelSpec]


@pytest.fixture
def lengths_1_to_50(write_csv: Callable[..., Path]) -> Path:
    rows = [[" ".join(["word"] * (i - 1) + [f"w{i}"]), "ab"[i % 2]] for i in range(1, 51)]
    return write_csv([["text", "label"], *rows])


def profiled(
    path: Path, model: ModelSpec, tokenizer: Any, *, max_seq_length: int | None = None, **options: Any
) -> DataProfile:
    return profile_data(
        resolve_data(str(path), task=model.task, **options), model, tokenizer, max_seq_length=max_seq_length
    )


def test_lengths_are_those_of_the_tokenizer(lengths_1_to_50: Path, model_spec: Spec, encoder_tokenizer: Any) -> None:
    profile = profiled(lengths_1_to_50, model_spec(), encoder_tokenizer)
    quantiles = profile.token_length_quantiles
    assert (profile.train_rows, profile.eval_rows, profile.sampled_rows) == (45, 5, 45)
    assert len(quantiles) == 101 and list(quantiles) == sorted(quantiles)
    assert quantiles[-1] == profile.max_token_length <= 52
    assert quantiles[0] >= 3, "special tokens count"
    assert profile.max_seq_length == -(-profile.max_token_length // 8) * 8
    assert profile.truncated_rows == 0
    assert profile.text_bytes == sum(len(" ".join(["word"] * (i - 1) + [f"w{i}"])) for i in range(1, 51))
    assert sum(profile.class_counts.values()) == 45


def test_truncated_rows_are_counted(lengths_1_to_50: Path, model_spec: Spec, encoder_tokenizer: Any) -> None:
    whole = profiled(lengths_1_to_50, model_spec(), encoder_tokenizer)
    cut = profiled(lengths_1_to_50, model_spec(), encoder_tokenizer, max_seq_length=22)
    held = prepare_data(
        resolve_data(str(lengths_1_to_50), task="sequence-classification"),
        model_spec(),
        encoder_tokenizer,
        max_seq_length=64,
    )
    assert cut.truncated_rows == int((held.train_dataset.lengths > 22).sum()) > 0
    assert cut.token_length_quantiles[-1] == cut.max_seq_length == 22
    assert cut.max_token_length == whole.max_token_length
    assert cut.fingerprint == whole.fingerprint


def test_truncated_rows_are_scaled_up_from_a_sample(
    lengths_1_to_50: Path, model_spec: Spec, encoder_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = profiled(lengths_1_to_50, model_spec(), encoder_tokenizer, max_seq_length=22)
    monkeypatch.setattr(profiling_module, "SAMPLE_ROWS", 30)
    monkeypatch.setattr(profiling_module, "SAMPLE_TEXT_BYTES", 0)
    scaled = profiled(lengths_1_to_50, model_spec(), encoder_tokenizer, max_seq_length=22)
    assert scaled.sampled_rows == 30
    assert scaled.truncated_rows == pytest.approx(exact.truncated_rows, abs=8)


def test_default_length_stays_within_the_positions(
    lengths_1_to_50: Path, model_spec: Spec, encoder_tokenizer: Any
) -> None:
    profile = profiled(lengths_1_to_50, model_spec(max_positions=20), encoder_tokenizer)
    assert profile.max_seq_length == 20
    assert profile.truncated_rows > 0
    assert profiled(lengths_1_to_50, model_spec(max_positions=None), encoder_tokenizer).max_seq_length <= 56


def test_longer_than_the_positions_names_both(lengths_1_to_50: Path, model_spec: Spec, encoder_tokenizer: Any) -> None:
    with pytest.raises(DataError, match="64 positions, but got 100"):
        profiled(lengths_1_to_50, model_spec(), encoder_tokenizer, max_seq_length=100)


@pytest.mark.parametrize("task", ["causal-lm", "masked-lm"])
@pytest.mark.parametrize("cap", [None, 5])
def test_packed_rows_are_the_blocks_that_will_be_trained(
    write_jsonl: Callable[..., Path],
    model_spec: Spec,
    encoder_tokenizer: Any,
    decoder_tokenizer: Any,
    task: Any,
    cap: int | None,
) -> None:
    tokenizer = encoder_tokenizer if task == "masked-lm" else decoder_tokenizer
    path = write_jsonl([{"text": f"the film {i} " + "good " * (i % 30)} for i in range(200)])
    model = model_spec(task)
    spec = resolve_data(str(path), task=task, max_train_rows=cap)
    profile = profile_data(spec, model, tokenizer)
    assert profile.max_seq_length == 64, "never beyond the positions"
    assert set(profile.token_length_quantiles) == {64}
    data = prepare_data(spec, model, tokenizer, max_seq_length=64)
    assert (profile.train_rows, profile.eval_rows) == (len(data.train_dataset), len(data.eval_dataset))
    assert profile.class_counts == {} and profile.majority_share is None


def test_packed_defaults_by_model_size(
    write_jsonl: Callable[..., Path], model_spec: Spec, decoder_tokenizer: Any
) -> None:
    path = write_jsonl([{"text": f"{i} " * 300} for i in range(40)])
    small = profiled(path, model_spec("causal-lm", max_positions=2048), decoder_tokenizer)
    large = profiled(path, model_spec("causal-lm", max_positions=2048, total_parameters=10**9), decoder_tokenizer)
    assert (small.max_seq_length, large.max_seq_length) == (128, 512)


def test_block_count_is_extrapolated_for_much_text(
    write_jsonl: Callable[..., Path], model_spec: Spec, decoder_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_jsonl([{"text": f"{i} " + "good film " * 30} for i in range(200)])
    exact = profiled(path, model_spec("causal-lm"), decoder_tokenizer)
    monkeypatch.setattr(profiling_module, "EXACT_TEXT_BYTES", 5000)
    estimated = profiled(path, model_spec("causal-lm"), decoder_tokenizer)
    assert estimated.train_rows == pytest.approx(exact.train_rows, rel=0.02)


def test_completions_are_profiled_whole(
    write_jsonl: Callable[..., Path], model_spec: Spec, decoder_tokenizer: Any
) -> None:
    path = write_jsonl([{"prompt": "one " * i, "completion": f"two {i}"} for i in range(30)])
    profile = profiled(path, model_spec("causal-lm"), decoder_tokenizer)
    assert profile.max_token_length <= 1 + 29 + 2 + 1
    assert profile.train_rows + profile.eval_rows == 30


def test_movie_sentences_with_the_pretrained_tokenizer(
    minilm_dir: Path, movie_sentences: Path, model_spec: Spec
) -> None:
    from transformers import AutoTokenizer

    profile = profiled(movie_sentences, model_spec(max_positions=512), AutoTokenizer.from_pretrained(minilm_dir))
    assert profile.sampled_rows == sum(profile.length_counts) == 5000
    assert profile.reading_s and profile.tokenizing_s_per_row
    assert 20 < profile.mean_tokens() < 35
    assert profile.majority_share == pytest.approx(0.504, abs=0.01)


def test_findings_in_words() -> None:
    assert data_findings(data_profile()) == []
    found = data_findings(
        data_profile(empty_rows=2, duplicate_rows=3, truncated_rows=4, class_counts={"a": 95, "b": 5})
    )
    assert [text.split()[0] for text in found] == ["2", "3", "4", "95%"]
