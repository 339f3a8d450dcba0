"""Held-out metrics against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from transformers import EvalPrediction

from advisor.core.metrics import CLASSIFICATION, LABEL, PREDICTED, PROBABILITY
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
    assert set(final) == {metric.name for metric in CLASSIFICATION}
    assert (final["accuracy"], final["f1_macro"]) == pytest.approx((2 / 3, 2 / 3))
    assert final["log_loss"] == pytest.approx(logged["nll"], abs=1e-6)


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
    if task != "seq2seq-lm":
        hits = (shifted[0].argmax(-1) == shifted[1]) & (shifted[1] != -100)
        assert final["perplexity"] == pytest.approx(math.exp(expected), rel=1e-5)
        assert final["token_accuracy"] == pytest.approx(float(hits.sum() / (shifted[1] != -100).sum()))


def test_predictions_come_in_the_order_of_the_data_set() -> None:
    held_out = HeldOut(get_task("sequence-classification"))
    logits, labels = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([2, 0, 1, 1, 0])
    held_out.order = [3, 1, 4, 0, 2]
    rows = held_out.reduce_logits(logits[held_out.order], labels[held_out.order])
    held_out.compute_metrics(EvalPrediction(rows.numpy(), labels[held_out.order].numpy()))
    columns = held_out.predictions()
    assert columns[LABEL].tolist() == labels.tolist()
    assert columns[PROBABILITY] == pytest.approx(logits.softmax(-1).numpy(), abs=1e-6)
    assert columns[PREDICTED].tolist() == logits.argmax(-1).tolist()


class Words:
    """Each id is so many letters; 0 is special."""

    def batch_decode(self, rows: list[np.ndarray], skip_special_tokens: bool) -> list[str]:
        assert skip_special_tokens
        return ["".join("é" * int(token) for token in row) for row in rows]


def test_bits_per_byte_counts_the_bytes_of_predicted_tokens() -> None:
    """The first token of a row is predicted by none, padding and prompts do not count."""
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 5, 10), torch.tensor([[9, 3, 2, -100, -100], [7, -100, 1, 1, 2]])
    held_out = HeldOut(get_task("causal-lm"))
    held_out.compute_metrics(EvalPrediction(held_out.reduce_logits(logits, labels).numpy(), labels.numpy()))
    nll = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
    number_of_bytes = 2 * (3 + 2 + 1 + 1 + 2)
    figure = held_out.final_metrics(Words())["bits_per_byte"]
    assert figure == pytest.approx(float(nll) / number_of_bytes / math.log(2), rel=1e-6)


def test_labels_of_tokens_are_counted_where_there_are_any() -> None:
    labels = torch.tensor([[0, 1, -100], [1, -100, -100]])
    logits = torch.zeros(2, 3, 2)
    logits[0, 0, 0] = logits[0, 1, 0] = logits[1, 0, 1] = 3.0  # right, wrong, right
    logged, final = figures("token-classification", logits, labels)
    assert final["token_accuracy"] == pytest.approx(2 / 3)
    assert logged["entity_f1"] == final["entity_f1"] == pytest.approx(2 / (3 + 2))  # equal neighbours are one entity
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
