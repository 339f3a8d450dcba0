"""Held-out metrics against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from transformers import EvalPrediction

from advisor.training.metrics import HeldOut, held_out_metrics
from advisor.training.tasks import get_task


def figures(task: str, logits: object, labels: torch.Tensor) -> tuple[dict[str, float], dict[str, float]]:
    """What a run logs, and what is computed afterwards."""
    held_out = HeldOut(get_task(task))
    rows = held_out.reduce_logits(logits, labels)
    logged = held_out.compute_metrics(EvalPrediction(rows.numpy(), labels.numpy()))
    return logged, held_out.final_metrics()


def test_classification_figures() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]])
    labels = torch.tensor([0, 1, 1])
    logged, final = figures("sequence-classification", (logits, "hidden states"), labels)
    assert logged["accuracy"] == pytest.approx(2 / 3)
    assert logged["nll"] == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)), abs=1e-6)
    assert final == pytest.approx({"accuracy": 2 / 3, "f1_macro": 2 / 3})


@pytest.mark.parametrize("task", ["causal-lm", "masked-lm", "seq2seq-lm"])
def test_perplexity_weighs_tokens_and_not_batches(task: str) -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(4, 6, 10), torch.randint(0, 10, (4, 6))
    labels[0, 1:] = -100
    labels[1, :5] = -100
    logged, final = figures(task, logits, labels)
    shifted = (logits[:, :-1], labels[:, 1:]) if task == "causal-lm" else (logits, labels)
    expected = float(torch.nn.functional.cross_entropy(shifted[0].flatten(0, 1), shifted[1].flatten()))
    assert logged["nll"] == pytest.approx(expected, rel=1e-5)
    assert logged["perplexity"] == pytest.approx(math.exp(expected), rel=1e-5)
    assert final == {}


def test_labels_of_tokens_are_counted_where_there_are_any() -> None:
    labels = torch.tensor([[0, 1, -100], [1, -100, -100]])
    logits = torch.zeros(2, 3, 2)
    logits[0, 0, 0] = logits[0, 1, 0] = logits[1, 0, 1] = 3.0  # right, wrong, right
    logged, _ = figures("token-classification", logits, labels)
    assert logged["accuracy"] == pytest.approx(2 / 3)
    expected = torch.nn.functional.cross_entropy(logits.view(-1, 2), labels.view(-1), ignore_index=-100)
    assert logged["nll"] == pytest.approx(float(expected), rel=1e-6)


def test_a_diverged_model_has_a_finite_perplexity() -> None:
    rows, labels = np.array([[5000.0, 1.0]]), np.array([[1]])
    logged = get_task("causal-lm").compute_metrics(EvalPrediction(rows, labels))
    assert logged["nll"] == 5000.0
    assert math.isfinite(logged["perplexity"])


def test_our_loss_replaces_the_trainers_batch_mean() -> None:
    logged = {"eval_loss": 1.5, "eval_nll": 1.25, "eval_accuracy": 0.5, "eval_runtime": 3.0, "epoch": 1.0}
    assert held_out_metrics(logged) == {"accuracy": 0.5, "eval_loss": 1.25}


def test_nothing_is_computed_before_the_first_evaluation() -> None:
    held_out = HeldOut(get_task("sequence-classification"))
    assert not held_out.evaluated
    assert held_out.final_metrics() == {}
