"""Every task has its batch, its head, its metrics; and data, or a refusal before anything is read."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import EvalPrediction

from advisor.core.errors import DataError, ModelError
from advisor.core.model import TASKS, Task
from advisor.core.plan import ExecutionPlan
from advisor.strategies import get_strategy
from advisor.strategies.adapters import TASK_TYPES
from advisor.training.build import build_model
from advisor.training.data import resolve_data
from advisor.training.metrics import compute_metrics, reduce_logits
from advisor.training.models import inspect_model
from advisor.training.synthetic import batch_shapes, synthetic_batch
from tests.tracing.tiny import tiny_spec

MODELS: dict[Task, str] = {
    "sequence-classification": "bert", "causal-lm": "llama", "masked-lm": "roberta", "token-classification": "bert",
    "seq2seq-lm": "t5",
}  # fmt: skip


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("task", TASKS)
def test_a_batch_holds_what_is_said_of_it(task: Task, padded: bool, tmp_path: Path) -> None:
    spec = tiny_spec(MODELS[task], task, tmp_path)
    batch = synthetic_batch(spec, 3, 16, padded=padded)
    assert {name: tuple(t.shape) for name, t in batch.items()} == batch_shapes(spec, 3, 16, padded=padded)
    assert ("attention_mask" in batch) == (padded or task not in ("causal-lm", "masked-lm"))
    if task == "token-classification":
        labels = batch["labels"]
        assert labels.shape == (3, 16) and int(labels.max()) < spec.num_labels
        assert bool((labels[batch["attention_mask"] == 0] == -100).all())


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("method", ["full", "lora", "head"])
def test_a_step_of_every_task_trains(task: Task, method: str, tmp_path: Path) -> None:
    spec = tiny_spec(MODELS[task], task, tmp_path)
    strategy = get_strategy(method).default_config(spec)
    torch.manual_seed(0)
    model = build_model(spec, strategy, ExecutionPlan(2))
    loss = model(**synthetic_batch(spec, 2, 16, padded=True))["loss"]
    loss.backward()
    assert math.isfinite(float(loss.detach()))
    assert any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in model.parameters() if p.requires_grad)


def test_adapters_train_a_new_head_and_keep_a_pretrained_one(tmp_path: Path) -> None:
    assert set(TASK_TYPES) == set(TASKS)
    for task, trains in (("token-classification", True), ("seq2seq-lm", False)):
        spec = tiny_spec(MODELS[task], task, tmp_path)  # type: ignore[index, arg-type]
        model = build_model(spec, get_strategy("lora").default_config(spec), ExecutionPlan(2))
        heads = [name for name, p in model.named_parameters() if p.requires_grad and "lora_" not in name]
        assert bool(heads) == trains


def test_labels_of_tokens_are_counted_where_there_are_any() -> None:
    labels = torch.tensor([[0, 1, -100], [1, -100, -100]])
    logits = torch.zeros(2, 3, 2)
    logits[0, 0, 0] = logits[0, 1, 0] = logits[1, 0, 1] = 3.0  # right, wrong, right
    rows = reduce_logits("token-classification")(logits, labels)
    metrics = compute_metrics("token-classification")(EvalPrediction(rows.numpy(), labels.numpy()))
    assert metrics["accuracy"] == pytest.approx(2 / 3)
    expected = torch.nn.functional.cross_entropy(logits.view(-1, 2), labels.view(-1), ignore_index=-100)
    assert metrics["nll"] == pytest.approx(float(expected), rel=1e-6)


def test_a_target_is_predicted_where_it_stands() -> None:
    logits, labels = torch.randn(2, 4, 7), torch.tensor([[1, 2, 3, -100], [4, 5, -100, -100]])
    rows = reduce_logits("seq2seq-lm")((logits, None), labels)
    metrics = compute_metrics("seq2seq-lm")(EvalPrediction(rows.numpy(), labels.numpy()))
    expected = float(torch.nn.functional.cross_entropy(logits.view(-1, 7), labels.view(-1), ignore_index=-100))
    assert metrics["nll"] == pytest.approx(expected, rel=1e-6)
    assert metrics["perplexity"] == pytest.approx(np.exp(expected), rel=1e-6)


@pytest.mark.parametrize("task", ["token-classification", "seq2seq-lm"])
def test_a_task_without_a_reader_is_refused_before_anything_is_read(task: Task) -> None:
    with pytest.raises(DataError, match=f"the task is {task}") as caught:
        resolve_data("movie-sentences", task=task)
    assert "predict" in str(caught.value.fix)


def test_a_head_that_the_architecture_lacks_is_refused(tmp_path: Path) -> None:
    spec = tiny_spec("llama", "causal-lm", tmp_path)
    with pytest.raises(ModelError, match="seq2seq-lm needs an architecture with such a head"):
        inspect_model(spec.source, "seq2seq-lm")
    with pytest.raises(ModelError, match="at least two labels"):
        inspect_model(spec.source, "token-classification", num_labels=1)
