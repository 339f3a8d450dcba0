"""The memory of a plan's most expensive step: its longest batch, through the stock Trainer, under the profiler."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import closing
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import set_seed

from advisor.core.plan import Plan
from advisor.measurement.step_profile import ProfiledStep, StepProfiler, profile_pass
from advisor.strategies import get_strategy
from advisor.training.arguments import training_arguments
from advisor.training.assembly import assemble_trainer
from advisor.training.build import build_model
from advisor.training.data import prepare_data
from advisor.training.linear_probe.pooling import Pooler
from advisor.training.models import load_tokenizer
from advisor.training.switches import backend_of_plan


def profile_longest_batch(plan: Plan) -> ProfiledStep:
    """What a run of the plan holds at most.

    Two optimizer steps of the plan on its longest batch, the second one under the memory profiler, and an evaluation
    batch as wide as the data's longest row, which is what a prediction is made for. Of a method that fits frozen
    features, a pass of such a batch.
    """
    backend = backend_of_plan(plan)
    backend.runtime.prepare_for(plan.execution)
    data = prepare_data(plan.data, plan.model, load_tokenizer(plan.model), max_seq_length=plan.execution.max_seq_length)
    micro_batches = 3 * plan.execution.gradient_accumulation_steps
    worst = _WorstRows(data.train_dataset, data.collator, plan.execution.micro_batch_size, micro_batches)
    widest = max((data.train_dataset, data.eval_dataset), key=lambda rows: max(rows.lengths))
    held_out = _WorstRows(widest, data.collator, plan.execution.evaluation_batch_size, 1)
    profiler = StepProfiler(at_step=2)
    set_seed(plan.seed)
    if get_strategy(plan.strategy.method).fits_frozen_features:
        return _profiled_pass(plan, _WorstRows(widest, data.collator, _widest_pass(plan), 1))
    model = build_model(plan.model, plan.strategy, plan.execution, device=backend.torch_device)
    with tempfile.TemporaryDirectory(prefix="advisor-profile-") as scratch:
        arguments = training_arguments(
            plan.strategy, plan.execution, scratch, seed=plan.seed, max_steps=2, logging_steps=3
        )
        trainer = assemble_trainer(
            model,
            arguments,
            plan.model.task,
            train_dataset=worst,
            collator=worst.collate,
            callbacks=[*get_strategy(plan.strategy.method).callbacks(plan.strategy), profiler],
            strategy=plan.strategy,
            execution=plan.execution,
        )
        with closing(profiler):
            trainer.train()
        if profiler.result is None:
            raise RuntimeError("the Trainer ended before the profiled step")
        trainer.data_collator = held_out.collate
        return profiler.result.with_evaluation(lambda: trainer.evaluate(held_out))


def _widest_pass(plan: Plan) -> int:
    return max(plan.execution.micro_batch_size, plan.execution.evaluation_batch_size)


def _profiled_pass(plan: Plan, worst: _WorstRows) -> ProfiledStep:
    """The longest batch through a frozen model, the second time under the memory profiler."""
    place = backend_of_plan(plan).torch_device
    pooling = get_strategy(plan.strategy.method).pooling(plan.strategy)
    model = build_model(plan.model, plan.strategy, plan.execution, device=place).eval()
    rows = list(range(_widest_pass(plan)))
    with Pooler(model, pooling, plan.execution, place) as pooler:
        pooler(worst.collate(rows))
        return profile_pass(model, lambda: pooler(worst.collate(rows)))


class _WorstRows(Dataset[int]):
    """Micro-batches as wide as the data's longest row, each with one such row and, where there are any, shorter ones.

    Since rows are shuffled, every epoch has such a batch. The shorter rows bring the padding that decides whether an
    attention mask is built; only the shape matters to memory besides.
    """

    def __init__(self, dataset: Any, collator: Callable[..., Any], rows: int, batches: int) -> None:
        order = np.argsort(-np.asarray(dataset.lengths), kind="stable")
        chosen = [int(order[0]), *(int(order[-1 - index % len(order)]) for index in range(rows - 1))]
        self._features = [dataset[index] for index in chosen]
        self._collator = collator
        self._length = rows * batches

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> int:
        return index

    def collate(self, rows: list[Any]) -> dict[str, torch.Tensor]:
        return self._collator(self._features[: len(rows)])
