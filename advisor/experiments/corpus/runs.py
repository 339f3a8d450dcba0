"""Training one cell of the corpus in this process, with the code that ``advisor run`` trains with.

The one difference to a run is when held-out items are looked at: at several steps instead of after each epoch, without
moving the random numbers of the training.
"""

from __future__ import annotations

import base64
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Subset
from transformers import EvalPrediction, TrainerCallback, set_seed

from advisor.core.data import DataSpec
from advisor.core.metrics import LABEL, NLL_SUM, PREDICTED, PROBABILITY, TOKENS
from advisor.core.model import ModelSpec
from advisor.core.plan import ExecutionPlan
from advisor.core.strategy import StrategyConfig
from advisor.experiments.corpus.design import CorpusDesign, CorpusSize, CorpusTask
from advisor.strategies import get_strategy
from advisor.training.arguments import training_arguments
from advisor.training.assembly import assemble_trainer, count_parameters
from advisor.training.build import build_model
from advisor.training.callbacks import ProgressEvents
from advisor.training.data import PreparedData, load_rows, prepare_data, resolve_data
from advisor.training.metrics import HeldOut
from advisor.training.models import inspect_model, load_tokenizer, model_path
from advisor.training.tasks import get_task

CURVE_SHARES = (0.25, 0.5)
"""Of the steps, after which the first held-out items are looked at; the end is looked at with all of them."""

CURVE_ITEMS = 32
"""Held-out items that the points before the end rest on; those of the end are reported for them as well."""

EVAL_BATCH_SIZE = 32

_LEAST_PROBABILITY = 1e-30


@dataclass(frozen=True)
class CorpusRun:
    """One finished run.

    Attributes:
        task: Name of the corpus task.
        method: Registry name of the strategy.
        variant: Name of the strategy with its knobs, as the grid has it.
        lr_rel: Multiple of the method's default learning rate.
        learning_rate: Peak.
        seed: Of initialisation, data order and dropout.
        steps, batch_size, train_rows: Of the training.
        train_losses: One per optimizer step, nats.
        curve_steps: Optimizer steps after which held-out items were looked at.
        curve_losses, curve_accuracies: On the first ``CURVE_ITEMS`` held-out items, the end included.
        loss, accuracy: On all held-out items after the last step; the loss in nats per item (per token of a language
            model), the accuracy ``None`` without classes.
        predicted: Base64 of one unsigned byte per held-out item: the predicted class; empty without classes.
        true_probability: Base64 of one float16 per held-out item: the probability of the true class (of a language
            model: the mean loss per token of a block).
        trainable_parameters: Of the model as it was trained.
        tokens: Trained on, padding included.
        training_cpu_s, evaluation_cpu_s, loading_cpu_s: Processor time of this process.
        wall_s: Of the whole run; the machine was shared, so the processor time is the cost that counts.
    """

    task: str
    method: str
    variant: str
    lr_rel: float
    learning_rate: float
    seed: int
    steps: int
    batch_size: int
    train_rows: int
    train_losses: tuple[float, ...]
    curve_steps: tuple[int, ...]
    curve_losses: tuple[float, ...]
    curve_accuracies: tuple[float, ...]
    loss: float
    accuracy: float | None
    predicted: str
    true_probability: str
    trainable_parameters: int
    tokens: int
    training_cpu_s: float
    evaluation_cpu_s: float
    loading_cpu_s: float
    wall_s: float


@dataclass(frozen=True)
class TaskSetup:
    """A task's data and model, read once for all its runs."""

    task: CorpusTask
    size: CorpusSize
    batch_size: int
    data_spec: DataSpec
    model: ModelSpec
    data: PreparedData

    @property
    def epochs(self) -> float:
        """Passes of a run."""
        return self.size.steps * self.batch_size / self.size.train_rows

    @property
    def labels(self) -> np.ndarray | None:
        """Of the held-out items; ``None`` for language modelling."""
        if not self.data.label_names:
            return None
        return np.array([int(self.data.eval_dataset[i]["labels"]) for i in range(len(self.data.eval_dataset))])


def set_up(design: CorpusDesign, task: CorpusTask) -> TaskSetup:
    """Read a task's texts and look at its model.

    Raises:
        DataError: the texts or the model were not fetched; the message has the command.
    """
    size = design.size_of(task)
    dropped: tuple[str, ...] = ()
    if task.keep_labels:
        everything = resolve_data(task.data, task=task.task)
        dropped = tuple(sorted(set(load_rows(everything, task.task).label_names) - set(task.keep_labels)))
    spec = resolve_data(
        task.data,
        task=task.task,
        eval_fraction=task.eval_fraction,
        max_train_rows=size.train_rows,
        max_eval_rows=design.held_out_items,
        drop_labels=dropped,
    )
    rows = load_rows(spec, task.task)
    model = inspect_model(model_path(task.model), task.task, num_labels=max(2, rows.num_labels))
    data = prepare_data(spec, model, load_tokenizer(model), max_seq_length=task.max_seq_length)
    return TaskSetup(task, size, design.batch_size, spec, model, data)


class CurvePoints(TrainerCallback):
    """Asks for evaluations after given steps, and counts processor time and tokens of the training alone."""

    def __init__(self, steps: tuple[int, ...]) -> None:
        self.steps = steps
        self.training_cpu_s = 0.0
        self.tokens = 0
        self._batch_tokens = 0
        self._began_s = 0.0
        self._random_state: torch.Tensor | None = None

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._began_s = time.process_time()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.training_cpu_s += time.process_time() - self._began_s
        self.tokens += self._batch_tokens
        if state.global_step in self.steps:
            control.should_evaluate = True
            self._random_state = torch.get_rng_state()

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._random_state is not None:
            torch.set_rng_state(self._random_state)
            self._random_state = None

    def counting(self, collator: Any) -> Any:
        """The collator, whose last batch's tokens are known."""

        def collate(rows: Any) -> Any:
            batch = collator(rows)
            self._batch_tokens = int(batch["input_ids"].numel())
            return batch

        return collate


class RememberingHeldOut(HeldOut):
    """Keeps the predictions of every evaluation, each column by evaluated item."""

    def __init__(self, task: Any) -> None:
        super().__init__(task)
        self.columns: list[dict[str, np.ndarray]] = []

    def compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        figures = super().compute_metrics(prediction)
        self.columns.append(self.predictions())
        return figures


def run_cell(setup: TaskSetup, strategy: StrategyConfig, variant: str, seed: int) -> CorpusRun:
    """Train and evaluate.

    Args:
        setup: Data and model.
        strategy: Complete; its epochs are the task's.
        variant: How the grid calls the strategy.
        seed: Of initialisation, data order and dropout.
    """
    task, began_s = setup.task, time.perf_counter()
    loading_s = time.process_time()
    execution = ExecutionPlan(
        micro_batch_size=setup.batch_size, max_seq_length=task.max_seq_length, eval_batch_size=EVAL_BATCH_SIZE,
        group_by_length=True,
    )  # fmt: skip
    set_seed(seed)
    model = build_model(setup.model, strategy, execution)
    trainable, _ = count_parameters(model)
    loading_s = time.process_time() - loading_s
    points = CurvePoints(tuple(sorted({max(1, round(share * setup.size.steps)) for share in CURVE_SHARES})))
    progress, held_out = ProgressEvents(lambda event: None), RememberingHeldOut(get_task(task.task))
    held, order = setup.data.eval_dataset, np.argsort(setup.data.eval_dataset.lengths, kind="stable")
    with tempfile.TemporaryDirectory() as folder:
        arguments = training_arguments(strategy, execution, folder, seed=seed, max_steps=setup.size.steps)
        trainer = assemble_trainer(
            model,
            arguments,
            task.task,
            train_dataset=setup.data.train_dataset,
            eval_dataset=Subset(held, [int(i) for i in order if i < CURVE_ITEMS]),
            collator=points.counting(setup.data.collator),
            callbacks=[*get_strategy(strategy.method).callbacks(strategy), progress, points],
            strategy=strategy,
            execution=execution,
            held_out=held_out,
        )
        used_s = time.process_time()
        trainer.train()
        trainer.evaluate(Subset(held, [int(i) for i in order]))
        used_s = time.process_time() - used_s
    final = {name: column[np.argsort(order, kind="stable")] for name, column in held_out.columns[-1].items()}
    first = {name: column[:CURVE_ITEMS] for name, column in final.items()}
    figures = [item_losses(columns) for columns in (*held_out.columns[:-1], first)]
    classes = PREDICTED in final
    return CorpusRun(
        task=task.name,
        method=strategy.method,
        variant=variant,
        lr_rel=strategy.lr_rel,
        learning_rate=strategy.learning_rate,
        seed=seed,
        steps=setup.size.steps,
        batch_size=setup.batch_size,
        train_rows=len(setup.data.train_dataset),
        train_losses=tuple(round(value, 4) for _, value in progress.train_losses[: setup.size.steps]),
        curve_steps=(*points.steps, setup.size.steps),
        curve_losses=tuple(round(float(losses.mean()), 5) for losses in figures),
        curve_accuracies=tuple(round(hit_share(c), 5) for c in (*held_out.columns[:-1], first)) if classes else (),
        loss=round(float(item_losses(final).mean()), 5),
        accuracy=round(hit_share(final), 5) if classes else None,
        predicted=packed(final[PREDICTED].astype(np.uint8)) if classes else "",
        true_probability=packed(np.exp(-item_losses(final)).astype(np.float16)),
        trainable_parameters=trainable,
        tokens=points.tokens,
        training_cpu_s=round(points.training_cpu_s, 3),
        evaluation_cpu_s=round(used_s - points.training_cpu_s, 3),
        loading_cpu_s=round(loading_s, 3),
        wall_s=round(time.perf_counter() - began_s, 3),
    )


def item_losses(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """Negative log-likelihood of every item in nats: of its class, or the mean over its tokens."""
    if PROBABILITY in columns:
        labels = columns[LABEL].astype(np.int64)
        return -np.log(np.maximum(columns[PROBABILITY][np.arange(len(labels)), labels], _LEAST_PROBABILITY))
    return np.asarray(columns[NLL_SUM] / np.maximum(columns[TOKENS], 1))


def hit_share(columns: Mapping[str, np.ndarray]) -> float:
    """Share of the items whose predicted class is theirs."""
    return float((columns[PREDICTED] == columns[LABEL]).mean())


def packed(values: np.ndarray) -> str:
    """An array as base64 of its bytes."""
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()
