"""Held-out metrics against their definitions, whatever the batches."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import EvalPrediction

from advisor.training.metrics import compute_metrics, held_out_metrics, macro_f1, reduce_logits


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40))
def test_macro_f1_is_sklearns(pairs: list[tuple[int, int]]) -> None:
    from sklearn.metrics import f1_score

    labels, predicted = (np.array(column) for column in zip(*pairs, strict=True))
    assert macro_f1(labels, predicted) == pytest.approx(f1_score(labels, predicted, average="macro"))


def test_classification_figures() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]])
    labels = torch.tensor([0, 1, 1])
    rows = reduce_logits("sequence-classification")((logits, "hidden states"), labels)
    assert rows.shape == (3, 2)
    metrics = compute_metrics("sequence-classification")(EvalPrediction(rows.numpy(), labels.numpy()))
    assert metrics["accuracy"] == pytest.approx(2 / 3)
    assert metrics["nll"] == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)), abs=1e-6)


@pytest.mark.parametrize("task", ["causal-lm", "masked-lm"])
def test_perplexity_weighs_tokens_and_not_batches(task: str) -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(4, 6, 10), torch.randint(0, 10, (4, 6))
    labels[0, 1:] = -100
    labels[1, :5] = -100
    reduce = reduce_logits(task)  # type: ignore[arg-type]
    whole = compute_metrics(task)(EvalPrediction(reduce(logits, labels).numpy(), labels.numpy()))  # type: ignore[arg-type]
    pieces = torch.cat([reduce(logits[i : i + 1], labels[i : i + 1]) for i in range(4)])
    assert compute_metrics(task)(EvalPrediction(pieces.numpy(), labels.numpy())) == whole  # type: ignore[arg-type]
    shifted = (logits[:, :-1], labels[:, 1:]) if task == "causal-lm" else (logits, labels)
    expected = float(torch.nn.functional.cross_entropy(shifted[0].flatten(0, 1), shifted[1].flatten()))
    assert whole["nll"] == pytest.approx(expected, rel=1e-5)
    assert whole["perplexity"] == pytest.approx(math.exp(expected), rel=1e-5)


def test_a_diverged_model_has_a_finite_perplexity() -> None:
    rows, labels = np.array([[5000.0, 1.0]]), np.array([[1]])
    metrics = compute_metrics("causal-lm")(EvalPrediction(rows, labels))
    assert metrics["nll"] == 5000.0
    assert math.isfinite(metrics["perplexity"])


def test_our_loss_replaces_the_trainers_batch_mean() -> None:
    logged = {"eval_loss": 1.5, "eval_nll": 1.25, "eval_accuracy": 0.5, "eval_runtime": 3.0, "epoch": 1.0}
    assert held_out_metrics(logged) == {"accuracy": 0.5, "eval_loss": 1.25}
