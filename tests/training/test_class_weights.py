"""Rare classes weigh more in the loss, by scikit-learn's formula, and nothing else changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional

from advisor.cli.app import app
from advisor.core.errors import InputError
from advisor.core.strategy import StrategyConfig
from advisor.training.class_weights import (
    balanced_label_weights,
    balanced_weights,
    weighted_binary_cross_entropy,
    weighted_cross_entropy,
)
from advisor.training.tasks import get_task
from advisor.training.trainer import train
from tests.training.training_runs import lora_strategy, save_model, save_table, tiny_plan


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60))
def test_weights_are_scikit_learns(labels: list[int]) -> None:
    found = balanced_weights(np.array([*labels, -100, -100]), 6)
    present = np.unique(labels)
    assert found[present] == pytest.approx(compute_class_weight("balanced", classes=present, y=np.array(labels)))
    assert np.all(found[np.setdiff1d(np.arange(6), present)] == 1)
    assert found[labels].mean() == pytest.approx(1)


def test_the_loss_is_the_weighted_sum_over_the_items() -> None:
    draw = torch.Generator().manual_seed(1)
    logits, labels = torch.randn(6, 3, generator=draw), torch.tensor([0, 0, 0, 0, 1, 2])
    weights = balanced_weights(labels.numpy(), 3)
    whole = weighted_cross_entropy(weights)({"logits": logits}, labels, num_items_in_batch=torch.tensor(6))
    rows = -logits.log_softmax(-1)[torch.arange(6), labels].double() * torch.tensor(weights)[labels]
    assert whole.item() == pytest.approx(rows.mean().item(), rel=1e-6)
    loss = weighted_cross_entropy(weights)
    halves = sum(loss({"logits": logits[part]}, labels[part], num_items_in_batch=6) for part in ([0, 4], [1, 2, 3, 5]))
    assert float(halves) == pytest.approx(whole.item(), rel=1e-6)


def test_tokens_without_a_tag_and_learned_prompts_do_not_count() -> None:
    logits, labels = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(2)), torch.tensor([[1, -100], [2, 0]])
    found = weighted_cross_entropy(np.array([1.0, 2.0, 4.0]))({"logits": logits}, labels)
    kept, tags, weights = (
        logits[:, 3:].reshape(-1, 3)[[0, 2, 3]],
        torch.tensor([1, 2, 0]),
        torch.tensor([2.0, 4.0, 1.0]),
    )
    assert found.item() == pytest.approx(
        (functional.cross_entropy(kept, tags, reduction="none") * weights).mean().item()
    )


def test_every_label_of_several_is_balanced_by_itself() -> None:
    labels = np.array([[1, 0], [0, 0], [0, 1], [0, 0]], dtype=np.float32)
    weights = balanced_label_weights(labels)
    for column in range(2):
        wanted = compute_class_weight("balanced", classes=np.array([0, 1]), y=labels[:, column].astype(int))
        assert weights[:, column] == pytest.approx(wanted)
    logits = torch.randn(4, 2, generator=torch.Generator().manual_seed(3))
    rows = torch.tensor(labels)
    table = torch.tensor(weights, dtype=torch.float32)
    per_label = functional.binary_cross_entropy_with_logits(logits, rows, reduction="none")
    per_label = per_label * torch.where(rows > 0, table[1], table[0])
    found = weighted_binary_cross_entropy(weights)({"logits": logits}, rows, num_items_in_batch=torch.tensor(8))
    assert found.item() == pytest.approx(per_label.mean().item(), rel=1e-6)


@pytest.mark.parametrize("task", ["sequence-classification", "token-classification", "multi-label-classification"])
def test_tasks_with_classes_have_such_a_loss(task: str) -> None:
    several = task.startswith("multi")
    labels = np.eye(2) if several else np.array([0, 1, 1])
    loss = get_task(task).weighted_loss_func(labels, 2)
    logits = torch.zeros(2, 2, requires_grad=True)
    loss({"logits": logits}, torch.eye(2) if several else torch.tensor([0, 1])).backward()
    assert logits.grad is not None and torch.isfinite(logits.grad).all()


def test_a_run_learns_with_weights_and_measures_without(tmp_path: Path) -> None:
    table = save_table(tmp_path / "rows-200.jsonl")
    skewed = [line for i, line in enumerate(table.read_text().splitlines()) if i % 2 or i % 8 == 0]
    table.write_text("\n".join(skewed) + "\n")
    losses = {}
    for name in ("none", "balanced"):
        strategy = lora_strategy(class_weights=name, num_train_epochs=0.1, learning_rate=1e-9)
        losses[name] = train(tiny_plan(tmp_path, strategy=strategy), tmp_path / name)
    assert losses["none"].train_losses != losses["balanced"].train_losses
    held_out = [losses[name].metrics["eval_loss"] for name in ("none", "balanced")]
    assert held_out[0] == pytest.approx(held_out[1], rel=1e-4)


def test_a_linear_probe_is_balanced_too() -> None:
    from advisor.training.linear_probe.fitting import fit_head

    draw = np.random.default_rng(0)
    labels = (np.arange(200) % 10 == 0).astype(np.int64)
    features = (draw.normal(size=(200, 4)) + labels[:, None]).astype(np.float32)
    plain, balanced = (fit_head(features, labels, 2, 1.0, balanced=value) for value in (False, True))
    said = [int((head.scores(features).argmax(axis=1) == 1).sum()) for head in (plain, balanced)]
    assert said[1] > said[0]


@pytest.mark.parametrize("values", [{"class_weights": "inverse"}, {"evaluations_per_epoch": 0}])
def test_values_that_mean_nothing_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        StrategyConfig("full", 1e-3, **values)


def test_tasks_without_classes_refuse_weights(tmp_path: Path) -> None:
    strategy = lora_strategy(class_weights="balanced")
    with pytest.raises(InputError, match="text-regression has none"):
        strategy.check_task(get_task("text-regression").traits)
    model, table = save_model(tmp_path / "model"), save_table(tmp_path / "rows.jsonl")
    arguments = ["recommend", str(model), "--data", str(table), "--task", "masked-lm", "--text-column", "text"]
    result = CliRunner().invoke(app, [*arguments, "--class-weights", "balanced"])
    assert result.exit_code == 2
    assert "leave --class-weights out" in result.output
