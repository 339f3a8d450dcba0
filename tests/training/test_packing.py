"""Packed runs are what each would be alone, and are saved as ordinary adapters."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from advisor.core.errors import InputError
from advisor.core.plan import Plan
from advisor.core.run import Measurement
from advisor.core.strategy import StrategyConfig
from advisor.strategies.qlora import QLoraKnobs
from advisor.training.packing import pack_problem, train_pack
from advisor.training.run_folder import RunFolder
from advisor.training.trainer import train
from tests.training.training_runs import lora_strategy, tiny_plan

LOSS_TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny")


def members(folder: Path, strategies: list[StrategyConfig], seeds: list[int], **execution: Any) -> list[Plan]:
    """Plans over the tiny model, whose own dropout is on, and 32 rows; with other seeds rows come in another order."""
    plan = tiny_plan(folder, rows=40, **execution)
    return [dataclasses.replace(plan, strategy=s, seed=seed) for s, seed in zip(strategies, seeds, strict=True)]


def lora(**knobs: Any) -> StrategyConfig:
    return lora_strategy(num_train_epochs=1.5).replaced(**knobs)


def train_packed(plans: list[Plan], tmp_path: Path, **options: Any) -> list[Measurement]:
    return train_pack(plans, [tmp_path / f"packed-{index}" for index in range(len(plans))], **options)


def assert_same(packed: Measurement, alone: Measurement) -> None:
    assert packed.outcome == alone.outcome == "completed"
    assert [step for step, _ in packed.train_losses] == [step for step, _ in alone.train_losses]
    for (_, mine), (_, theirs) in zip(packed.train_losses, alone.train_losses, strict=True):
        assert mine == pytest.approx(theirs, rel=LOSS_TOLERANCE)
    for (step, mine), (at, theirs) in zip(packed.metric_history, alone.metric_history, strict=True):
        assert step == at
        assert mine == pytest.approx(theirs, rel=LOSS_TOLERANCE)
    assert packed.metrics == pytest.approx(alone.metrics, rel=LOSS_TOLERANCE)


def assert_members_are_what_they_are_alone(plans: list[Plan], tmp_path: Path) -> None:
    for index, packed in enumerate(train_packed(plans, tmp_path)):
        assert_same(packed, train(plans[index], tmp_path / f"alone-{index}"))


def test_members_with_knobs_and_seeds_of_their_own_are_what_they_are_alone(folder: Path, tmp_path: Path) -> None:
    """Ranks, rates, schedules, clipping, dropout, seeds (and with them heads, order and length of batches); the last
    one has fewer steps. What is saved gives the same answers with PEFT alone.
    """
    strategies = [
        lora(rank=1, lora_dropout=0.0, learning_rate=3e-3),
        lora(rank=4, lora_dropout=0.3, max_grad_norm=0.1, lora_alpha=3, evaluations_per_epoch=2),
        lora(rank=16, learning_rate=3e-2, weight_decay=0.1, lr_scheduler_type="cosine", num_train_epochs=1.0),
    ]
    plans = members(folder, strategies, [1, 2, 3])
    assert pack_problem(plans) is None
    assert_members_are_what_they_are_alone(plans, tmp_path)
    for index, plan in enumerate(plans):
        packed = RunFolder(tmp_path / f"packed-{index}")
        assert held_out_loss(plan, packed.model) == pytest.approx(packed.finished().metrics["eval_loss"], abs=1e-5)


def held_out_loss(plan: Plan, saved: Path) -> float:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from advisor.training.data import prepare_data

    base = AutoModelForSequenceClassification.from_pretrained(plan.model.source)
    model = PeftModel.from_pretrained(base, saved).eval()
    data = prepare_data(plan.data, plan.model, AutoTokenizer.from_pretrained(saved), max_seq_length=32)
    with torch.no_grad():
        return float(model(**data.collator([data.eval_dataset[i] for i in range(len(data.eval_dataset))])).loss)


@pytest.mark.parametrize(
    "switches",
    [
        {"gradient_checkpointing": True, "gradient_accumulation_steps": 2},
        pytest.param(
            {"gradient_checkpointing": True, "reentrant_checkpointing": True, "attn_implementation": "eager"},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_checkpointed_members_draw_the_same_masks_twice(folder: Path, tmp_path: Path, switches: dict[str, Any]) -> None:
    plans = members(folder, [lora(rank=2, lora_dropout=0.3), lora(rank=8, lora_dropout=0.0)], [1, 2], **switches)
    assert_members_are_what_they_are_alone(plans, tmp_path)


def test_members_on_4_bit_weights_are_what_they_are_alone(folder: Path, tmp_path: Path) -> None:
    strategies = [
        StrategyConfig("qlora", 1e-2, num_train_epochs=1.0, knobs=QLoraKnobs(rank=rank, lora_dropout=share))
        for rank, share in ((2, 0.2), (8, 0.0))
    ]
    assert_members_are_what_they_are_alone(members(folder, strategies, [1, 2]), tmp_path)


def test_a_member_that_diverges_touches_no_other(folder: Path, tmp_path: Path) -> None:
    plans = members(folder, [lora(learning_rate=1e30), lora()], [7, 7])
    diverged, healthy = train_packed(plans, tmp_path)
    assert diverged.outcome == "diverged"
    assert_same(healthy, train(plans[1], tmp_path / "alone"))


def test_a_pack_that_ran_out_of_time_goes_on_as_if_it_had_not(folder: Path, tmp_path: Path) -> None:
    plans = members(folder, [lora(rank=2, lora_dropout=0.3), lora()], [1, 2])
    seen: list[tuple[int, str]] = []
    stopped = train_packed(plans, tmp_path, time_limit_s=0.0, on_event=lambda n, event: seen.append((n, event["kind"])))
    assert [run.outcome for run in stopped] == ["over_time", "over_time"]
    resumed = train_packed(plans, tmp_path, resume=True)
    again = train_packed(plans, tmp_path, resume=True)
    assert_same(resumed[0], train(plans[0], tmp_path / "alone"))
    assert [run.metrics for run in again] == [run.metrics for run in resumed], "a finished pack is not trained again"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"strategy": lora(target_modules="all-linear")}, "target modules"),
        ({"strategy": StrategyConfig("full", 1e-3)}, "LoRA on frozen weights, but one is full"),
        ({"strategy": StrategyConfig("qlora", 1e-2, knobs=QLoraKnobs())}, "quantisation"),
        ({"device": "another"}, "same device"),
    ],
)
def test_runs_that_cannot_be_packed_are_refused(folder: Path, change: dict[str, Any], words: str) -> None:
    [plan] = members(folder, [lora()], [1])
    problem = pack_problem([plan, dataclasses.replace(plan, **change)])
    assert problem is not None and words in problem


def test_a_switch_that_needs_the_whole_model_is_refused(folder: Path, tmp_path: Path) -> None:
    [plan] = members(folder, [lora()], [1], torch_compile=True)
    with pytest.raises(InputError, match="torch_compile False"):
        train_packed([plan, plan], tmp_path)
