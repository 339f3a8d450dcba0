"""Accumulation changes what a step costs, not what it learns: the loss of a step is the mean over its rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from advisor.training.trainer import train
from tests.training.training_runs import lora_strategy, tiny_plan


def first_loss(folder: Path, **execution: int) -> float:
    plan = tiny_plan(folder, strategy=lora_strategy(lora_dropout=0.0, num_train_epochs=1), rows=80, **execution)
    return train(plan, folder / "run").train_losses[0][1]


def test_the_loss_does_not_grow_with_the_number_of_micro_batches(tmp_path: Path) -> None:
    whole = first_loss(tmp_path / "whole", micro_batch_size=16, gradient_accumulation_steps=1)
    split = first_loss(tmp_path / "split", micro_batch_size=4, gradient_accumulation_steps=4)
    assert split == pytest.approx(whole, rel=0.2)
