"""Every task that can be trained: its step's memory is the predicted one, and a run is saved and comes back equal."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, EvalPrediction

from advisor.core.plan import Plan
from advisor.core.run import Measurement
from advisor.core.strategy import StrategyConfig
from advisor.core.tasks import task_names, task_traits
from advisor.strategies import get_strategy
from advisor.strategies.lora import LoraKnobs
from advisor.training.data import prepare_data
from advisor.training.metrics import HeldOut
from advisor.training.models import load_tokenizer
from advisor.training.tasks import get_task
from advisor.training.trainer import train
from tests.tracing.test_trace_contract import BF16_AMP, BF16_WEIGHTS, TWICE, Case, assert_traced_as_profiled
from tests.training.reloading import load_trained
from tests.training.tasks.cases import CASES, tiny_task_plan

TRAINED = [
    name for name in task_names() if not (task_traits(name).predicted_only or task_traits(name).learns_preferences)
]
LORA = StrategyConfig("lora", 1e-2, num_train_epochs=2.0, knobs=LoraKnobs(rank=4, lora_alpha=8))
FULL = StrategyConfig("full", 1e-3, num_train_epochs=1.0)


@pytest.mark.parametrize(
    "knobs",
    [
        pytest.param({}, id="float32"),
        pytest.param({**BF16_WEIGHTS, **TWICE}, id="bfloat16", marks=pytest.mark.slow),
        pytest.param(BF16_AMP, id="amp", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("task", [name for name in task_names() if not task_traits(name).trainer_package])
def test_traced_peak_is_the_profiled_peak(task: str, knobs: dict[str, object], tmp_path: Path) -> None:
    assert_traced_as_profiled(Case(CASES[task].model, task, "full", knobs), tmp_path)


def figures_of_reloaded(plan: Plan, output: Path) -> dict[str, float]:
    """The held-out metrics of what a run saved, by the task's own functions."""
    task = get_task(plan.model.task)
    model = load_trained(plan.model, plan.strategy, plan.execution, output / "model")
    data = prepare_data(plan.data, plan.model, load_tokenizer(plan.model), max_seq_length=plan.execution.max_seq_length)
    reduced, labels = [], []
    for index in range(len(data.eval_dataset)):
        batch = data.collator([data.eval_dataset[index]])
        with torch.no_grad():
            logits = model(**batch)["logits"]
        reduced.append(task.reduce_logits(logits, batch["labels"]))
        labels.append(batch["labels"])
    for parts in (reduced, labels):  # of different lengths, padded as the Trainer does
        width = max(part.shape[-1] for part in parts)
        parts[:] = [_padded(part, width) if part.dim() > 1 else part for part in parts]
    held_out = HeldOut(task)
    held_out.name_labels(data.label_names)
    return held_out.compute_metrics(EvalPrediction(torch.cat(reduced).numpy(), torch.cat(labels).numpy()))


def _padded(part: torch.Tensor, width: int) -> torch.Tensor:
    return torch.nn.functional.pad(part, (0, width - part.shape[-1]), value=-100)


@pytest.mark.parametrize(
    "strategy", [pytest.param(LORA, id="lora"), pytest.param(FULL, id="full", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("task", TRAINED)
def test_a_run_is_saved_and_comes_back_equal(task: str, strategy: StrategyConfig, tmp_path: Path) -> None:
    plan = tiny_task_plan(task, tmp_path, strategy)
    measurement = train(plan, tmp_path / "run")
    assert measurement.outcome == "completed"
    assert {"eval_loss", plan.model.traits.metric.name} <= set(measurement.metrics)
    assert figures_of_reloaded(plan, tmp_path / "run")["nll"] == pytest.approx(
        measurement.metrics["eval_loss"], rel=1e-4
    )
    _comes_back_in_plain_libraries(plan, measurement, tmp_path / "run" / "model")


def _comes_back_in_plain_libraries(plan: Plan, measurement: Measurement, folder: Path) -> None:
    """With the head, and with what decides its loss, that it was trained with."""
    import transformers

    traits = plan.model.traits
    if not traits.new_head:
        return
    automatic = getattr(transformers, traits.auto_class)
    whole = get_strategy(plan.strategy.method).saves_whole_model
    config = AutoConfig.from_pretrained(folder if whole else folder / "base")
    assert config.num_labels == plan.model.num_labels
    assert {name: getattr(config, name) for name in traits.config_values} == dict(traits.config_values)
    if whole:
        assert automatic.from_pretrained(folder).config.num_labels == plan.model.num_labels
        return
    import peft

    loaded = peft.PeftModel.from_pretrained(automatic.from_pretrained(folder / "base"), folder)
    assert loaded.config.num_labels == plan.model.num_labels
