"""From what the user named to a task, a model and data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from advisor.core.errors import InputError, ModelError
from advisor.pipeline.inputs import DataSource, ModelSource, check_length, data_findings, resolve_task
from tests.core.records import data_profile, model_spec


def model(folder: Path, architecture: str | None) -> ModelSource:
    config = {"model_type": "x"} | ({"architectures": [architecture]} if architecture else {})
    (folder / "config.json").write_text(json.dumps(config))
    return ModelSource(str(folder))


def rows(folder: Path, *values: object) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return str(path)


def test_labels_mean_classification(tmp_path: Path) -> None:
    for architecture in ("BertForMaskedLM", "LlamaForCausalLM"):
        source = model(tmp_path, architecture)
        assert resolve_task(source, DataSource("x.csv", label_column="stars")) == "sequence-classification"
        assert resolve_task(source, DataSource("movie-sentences")) == "sequence-classification"
        assert resolve_task(source, DataSource("x.csv")) == "sequence-classification"


def test_conversations_and_prompts_mean_causal_language_modelling(tmp_path: Path) -> None:
    source = model(tmp_path, "LlamaForCausalLM")
    for row in ({"messages": []}, {"prompt": "a", "completion": "b"}):
        assert resolve_task(source, DataSource(rows(tmp_path, row))) == "causal-lm"
    assert resolve_task(source, DataSource(rows(tmp_path, {"text": "a", "label": 1}))) == "sequence-classification"


@pytest.mark.parametrize(
    ("architecture", "task"),
    [("BertForMaskedLM", "masked-lm"), ("LlamaForCausalLM", "causal-lm"), ("GPT2LMHeadModel", "causal-lm")],
)
def test_plain_text_is_modelled_as_in_pre_training(tmp_path: Path, architecture: str, task: str) -> None:
    assert resolve_task(model(tmp_path, architecture), DataSource("corpus.txt")) == task
    assert resolve_task(model(tmp_path, architecture), DataSource("wikipedia")) == task


def test_without_data_the_architecture_decides(tmp_path: Path) -> None:
    assert resolve_task(model(tmp_path, "LlamaForCausalLM"), None) == "causal-lm"
    assert resolve_task(model(tmp_path, "BertForMaskedLM"), None) == "sequence-classification"


def test_a_named_task_wins(tmp_path: Path) -> None:
    source = ModelSource(model(tmp_path, "BertForMaskedLM").source, task="masked-lm")
    assert resolve_task(source, DataSource("x.csv", label_column="stars")) == "masked-lm"


def test_when_nothing_says_the_task_it_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the task must be known") as refused:
        resolve_task(model(tmp_path, None), None)
    assert "--task" in str(refused.value.fix)


def test_a_missing_model_is_said_before_anything_else(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model at"):
        resolve_task(ModelSource(str(tmp_path / "none")), DataSource("corpus.txt"))


def test_sequences_must_fit_the_positions() -> None:
    check_length(model_spec(), 128)
    check_length(model_spec(max_positions=None), 10**6)
    with pytest.raises(InputError, match="at most the 128 positions"):
        check_length(model_spec(), 129)


def test_findings_in_words() -> None:
    assert data_findings(data_profile()) == []
    found = data_findings(
        data_profile(empty_rows=2, duplicate_rows=3, truncated_rows=4, class_counts={"a": 95, "b": 5})
    )
    assert [text.split()[0] for text in found] == ["2", "3", "4", "95%"]


def test_predict_chooses_an_attention_kernel_that_the_architecture_has() -> None:
    from advisor import predict

    config = Path(__file__).parents[1] / "fixtures" / "configs" / "deberta-v3-base.json"
    cost = predict(
        ModelSource(str(config), "sequence-classification"),
        method="head",
        execution={"micro_batch_size": 2, "max_seq_length": 16},
        device="t4",
    )
    assert cost.fits
    assert cost.total_parameters == 184_423_682
