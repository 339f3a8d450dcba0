"""Which task is meant by a model and data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from advisor.core.errors import InputError, ModelError
from advisor.training.detection import choose_task


def model(folder: Path, architecture: str | None) -> str:
    config = {"model_type": "x"} | ({"architectures": [architecture]} if architecture else {})
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def rows(folder: Path, *values: object) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return str(path)


def test_labels_mean_classification(tmp_path: Path) -> None:
    for architecture in ("BertForMaskedLM", "LlamaForCausalLM"):
        source = model(tmp_path, architecture)
        assert choose_task(source, "x.csv", columns={"label_column": "stars"}) == "sequence-classification"
        assert choose_task(source, "movie-sentences") == "sequence-classification"
        assert choose_task(source, "x.csv") == "sequence-classification"


def test_conversations_and_prompts_mean_causal_language_modelling(tmp_path: Path) -> None:
    source = model(tmp_path, "LlamaForCausalLM")
    for row in ({"messages": []}, {"prompt": "a", "completion": "b"}):
        assert choose_task(source, rows(tmp_path, row)) == "causal-lm"
    assert choose_task(source, rows(tmp_path, {"text": "a", "label": 1})) == "sequence-classification"


@pytest.mark.parametrize(
    ("architecture", "task"),
    [("BertForMaskedLM", "masked-lm"), ("LlamaForCausalLM", "causal-lm"), ("GPT2LMHeadModel", "causal-lm")],
)
def test_plain_text_is_modelled_as_in_pre_training(tmp_path: Path, architecture: str, task: str) -> None:
    assert choose_task(model(tmp_path, architecture), "corpus.txt") == task
    assert choose_task(model(tmp_path, architecture), "wikipedia") == task


def test_without_data_the_architecture_decides(tmp_path: Path) -> None:
    assert choose_task(model(tmp_path, "LlamaForCausalLM")) == "causal-lm"
    assert choose_task(model(tmp_path, "BertForMaskedLM")) == "sequence-classification"


def test_a_named_task_wins(tmp_path: Path) -> None:
    source = model(tmp_path, "BertForMaskedLM")
    assert choose_task(source, "x.csv", named="masked-lm", columns={"label_column": "stars"}) == "masked-lm"
    with pytest.raises(InputError, match="no task 'masked'"):
        choose_task(source, named="masked")


def test_when_nothing_says_the_task_it_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the task must be known") as refused:
        choose_task(model(tmp_path, None))
    assert "--task" in str(refused.value.fix)


def test_a_missing_model_is_said_before_anything_else(tmp_path: Path) -> None:
    for named in (None, "causal-lm"):
        with pytest.raises(ModelError, match="no model at"):
            choose_task(str(tmp_path / "none"), "corpus.txt", named=named)
