"""Preferences trained by TRL: memory is as predicted, and runs are saved, resumed and evaluated again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from advisor.core.run import Measurement
from advisor.core.strategy import StrategyConfig
from advisor.measurement.evaluation import evaluate_in_this_process
from advisor.strategies.lora import LoraKnobs
from advisor.training.reloading import load_trained
from advisor.training.run_folder import RunFolder
from advisor.training.trainer import train
from tests.tracing.test_trace_contract import (
    BF16_AMP,
    BF16_WEIGHTS,
    REENTRANT,
    SAVED,
    TWICE,
    Case,
    assert_traced_as_profiled,
)
from tests.training.tasks.cases import tiny_task_plan

pytest.importorskip("trl", reason="the extra dpo is not installed")

TASK = "dpo"
LORA = StrategyConfig("lora", 1e-2, num_train_epochs=2.0, knobs=LoraKnobs(rank=4, lora_alpha=8))
FULL = StrategyConfig("full", 1e-3, num_train_epochs=2.0)
SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("model", "method", "knobs"),
    [
        pytest.param("llama", "full", {}),
        pytest.param("llama", "lora", SAVED),
        pytest.param("llama", "lora", {}, marks=SLOW),
        pytest.param("llama", "partial", {}, marks=SLOW),
        pytest.param("llama", "qlora", {}, marks=SLOW),
        pytest.param("llama", "ia3", {}, marks=SLOW),
        pytest.param("llama", "full", {**BF16_WEIGHTS, **TWICE}, marks=SLOW),
        pytest.param("llama", "full", {**SAVED, **BF16_AMP}, marks=SLOW),
        pytest.param("llama", "lora", {**REENTRANT, **TWICE}, marks=SLOW),
        pytest.param("gpt2", "partial", {**BF16_AMP, **TWICE}, marks=SLOW),
        pytest.param("gemma2", "lora", {"attn_implementation": "eager"}, marks=SLOW),
    ],
)
def test_traced_peak_is_the_profiled_peak(model: str, method: str, knobs: dict[str, Any], tmp_path: Path) -> None:
    knobs = {"micro_batch_size": 4, "max_seq_length": 32, **knobs}
    assert_traced_as_profiled(Case(model, TASK, method, knobs), tmp_path)


def trained(strategy: StrategyConfig, folder: Path, **execution: Any) -> tuple[Any, Measurement]:
    plan = tiny_task_plan(TASK, folder, strategy, rows=60, **execution)
    return plan, train(plan, folder / "run")


@pytest.mark.parametrize("strategy", [LORA, pytest.param(FULL, marks=SLOW)], ids=lambda strategy: strategy.method)
def test_a_run_learns_is_saved_and_gives_the_same_figures_again(strategy: StrategyConfig, tmp_path: Path) -> None:
    """Also where the model before training is no part of what was saved."""
    plan, measurement = trained(strategy, tmp_path)
    assert measurement.outcome == "completed"
    assert measurement.metrics["reward_accuracy"] == 1.0, "one kind of answer is always the better one"
    assert measurement.metrics["reward_margin"] > 0
    assert 0 < measurement.metrics["eval_loss"] < 0.69, "that of a model that prefers neither is log 2"
    saved = load_trained(plan, RunFolder(tmp_path / "run").model)
    assert "ref" not in getattr(saved, "peft_config", {})
    evaluated = evaluate_in_this_process(plan, tmp_path / "run", plan.data, tmp_path)
    for name in ("reward_accuracy", "reward_margin", "eval_loss"):
        assert evaluated.metrics[name] == pytest.approx(measurement.metrics[name], rel=1e-3), name
    assert not (tmp_path / "run" / "checkpoints" / "README.md").exists(), "TRL writes no model card"


@pytest.mark.slow
def test_a_resumed_run_goes_on_against_the_same_model(tmp_path: Path) -> None:
    """Stopped at once, and resumed: the figures are those of a run in one go."""
    for name in ("whole", "halves"):
        (tmp_path / name).mkdir()
    _, whole = trained(FULL, tmp_path / "whole")
    plan = tiny_task_plan(TASK, tmp_path / "halves", FULL, rows=60)
    stopped = train(plan, tmp_path / "halves" / "run", time_limit_s=0.0, save_every_s=0.0)
    assert stopped.outcome == "over_time"
    resumed = train(plan, tmp_path / "halves" / "run", resume=True)
    assert resumed.metrics["reward_margin"] == pytest.approx(whole.metrics["reward_margin"], rel=1e-4)
