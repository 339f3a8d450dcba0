"""One training of one arm: a plan as ``run`` trains it, a recipe as its notebook does."""

from __future__ import annotations

import dataclasses
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from advisor.core.errors import InterruptedByUser, RunFailed
from advisor.core.plan import ExecutionPlan, Plan
from advisor.experiments.speed.compare import PLAN, BenchmarkRun, Recipe, Training


def train_arm(training: Training) -> BenchmarkRun:
    """Train one arm in this process.

    Raises:
        InterruptedByUser: Ctrl-C: a part of a training says nothing about its speed or quality.
        RunFailed: the training of the plan ended without a result.
    """
    if training.recipe is None:
        return _train_plan(training.plan, training.seed)
    return _train_recipe(training.plan, training.recipe, training.seed)


def _train_plan(plan: Plan, seed: int) -> BenchmarkRun:
    """The plan through the same function as ``advisor run``, checkpoints and callbacks included."""
    from advisor.training.trainer import train

    with tempfile.TemporaryDirectory(prefix="advisor-speed-") as folder:
        measured = train(dataclasses.replace(plan, seed=seed), Path(folder) / "run")
    if measured.outcome != "completed":
        failure = InterruptedByUser if measured.outcome == "interrupted" else RunFailed
        raise failure(f"the training of the plan did not complete: {measured.outcome} {measured.reason}".rstrip())
    return BenchmarkRun(PLAN, seed, _rows(plan, plan.data_profile.train_rows), measured.training_s, measured.metrics)


def _train_recipe(plan: Plan, recipe: Recipe, seed: int) -> BenchmarkRun:
    """The plan's model, method, rows, learning rate and epochs in the plain ``transformers.Trainer``."""
    # Rows are tokenised by datasets.Dataset.map and read from Arrow; collator, optimizer, logging and threads are the
    # libraries' own. Held-out rows are evaluated as they are, not padded: what is timed is training.
    from transformers import Trainer, set_seed

    from advisor.training.build import build_model
    from advisor.training.data.loading import read_rows
    from advisor.training.metrics import HeldOut, held_out_metrics
    from advisor.training.models import load_tokenizer
    from advisor.training.switches import backend_of_plan
    from advisor.training.tasks import get_task

    held_out = HeldOut(get_task(plan.model.task))
    rows, tokenizer = read_rows(plan.data, plan.model.task), load_tokenizer(plan.model)
    set_seed(seed)
    backend = backend_of_plan(plan)
    model = build_model(plan.model, plan.strategy, ExecutionPlan(recipe.batch_size), device=backend.torch_device)
    with tempfile.TemporaryDirectory(prefix="advisor-speed-") as folder:
        trainer = Trainer(
            model=model,
            args=_plain_arguments(plan, recipe, seed, folder, on_cpu=backend.is_host),
            train_dataset=_tokenized(rows.train, tokenizer, recipe.padding, recipe.max_length),
            eval_dataset=_tokenized(rows.eval, tokenizer, "longest", recipe.max_length),
            processing_class=tokenizer,
            compute_metrics=held_out.compute_metrics,
            preprocess_logits_for_metrics=held_out.reduce_logits,
        )
        started_s = time.perf_counter()
        trainer.train()
        training_s = time.perf_counter() - started_s
        metrics = held_out_metrics(trainer.evaluate())
    return BenchmarkRun(recipe.name, seed, _rows(plan, len(rows.train)), training_s, metrics)


def _plain_arguments(plan: Plan, recipe: Recipe, seed: int, folder: str, *, on_cpu: bool) -> Any:
    """What the recipe names; everything else is transformers' default."""
    from transformers import TrainingArguments

    strategy = plan.strategy
    return TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=recipe.batch_size,
        per_device_eval_batch_size=32,
        learning_rate=strategy.learning_rate,
        num_train_epochs=strategy.num_train_epochs,
        lr_scheduler_type=strategy.lr_scheduler_type,
        warmup_steps=strategy.warmup_ratio,
        weight_decay=strategy.weight_decay,
        max_grad_norm=strategy.max_grad_norm,
        seed=seed,
        use_cpu=on_cpu,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def _tokenized(rows: Sequence[Any], tokenizer: Any, padding: str, max_length: int) -> Any:
    """Rows as a notebook makes them: a ``datasets.Dataset``, mapped in batches; padding here only to full length."""
    from datasets import Dataset, disable_progress_bars
    from tqdm import tqdm

    disable_progress_bars()
    # Even a disabled bar makes a lock between processes, a semaphore that nobody removes when this process ends.
    tqdm.set_lock(threading.RLock())
    table = Dataset.from_dict({"text": [row.text for row in rows], "label": [row.label for row in rows]})
    whole = "max_length" if padding == "max_length" else False

    def tokenize(batch: dict[str, Any]) -> Any:
        return tokenizer(batch["text"], truncation=True, padding=whole, max_length=max_length)

    return table.map(tokenize, batched=True, keep_in_memory=True)


def _rows(plan: Plan, rows: int) -> int:
    return round(rows * plan.strategy.num_train_epochs)
