"""A finished run's model on other data, measured as the run measured its held-out rows."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from advisor.core.benchmark import ModelEvaluation, predictions_file
from advisor.core.data import DataSpec
from advisor.core.events import OnEvent
from advisor.core.plan import Plan
from advisor.core.store import output_errors
from advisor.measurement.writing import written_columns
from advisor.training.arguments import training_arguments
from advisor.training.assembly import assemble_trainer
from advisor.training.data import load_rows, prepare_data
from advisor.training.data.predictions import write_predictions
from advisor.training.metrics import HeldOut, held_out_metrics
from advisor.training.models import load_tokenizer
from advisor.training.quality_report import quality_report
from advisor.training.reloading import load_reference, load_trained
from advisor.training.run_folder import RunFolder
from advisor.training.sampling import evaluation_order
from advisor.training.switches import backend_of_plan
from advisor.training.tasks import get_task


def evaluate_in_this_process(
    plan: Plan, run: Path, data: DataSpec, output_dir: Path, *, on_event: OnEvent | None = None
) -> ModelEvaluation:
    """Evaluate the saved model; meant for a process that does nothing else.

    Args:
        plan: Of the run.
        run: Its folder.
        data: The plan's, with the new data as ``eval_source``.
        output_dir: Receives the predictions.
        on_event: Told about phases and batches.

    Raises:
        DataError: the data cannot be used.
        InputError: a package that trains the task is missing.
        ModelError: the model cannot be loaded.
        OutputError: the predictions cannot be written.
    """

    def phase(name: str) -> None:
        if on_event is not None:
            on_event({"kind": "phase", "name": name})

    backend, task = backend_of_plan(plan), get_task(plan.model.task)
    backend.runtime.prepare_for(plan.execution)
    tokenizer = load_tokenizer(plan.model)
    rows = load_rows(data, plan.model.task)
    prepared = prepare_data(
        data, plan.model, tokenizer, max_seq_length=plan.execution.max_seq_length, held_out_only=True
    )
    phase("loading")
    model = load_trained(plan, RunFolder(run).model, device=backend.torch_device)
    held_out = HeldOut(task)
    held_out.name_labels(prepared.label_names)
    phase("evaluation")
    with tempfile.TemporaryDirectory(prefix="advisor-evaluate-") as folder:
        arguments = training_arguments(
            plan.strategy, plan.execution, Path(folder), seed=plan.seed, device_type=backend.name, evaluation="no"
        )
        trainer: Any = assemble_trainer(
            model,
            arguments,
            plan.model.task,
            train_dataset=prepared.train_dataset,
            eval_dataset=prepared.eval_dataset,
            collator=prepared.collator,
            held_out=held_out,
            reference=load_reference(plan, model, device=backend.torch_device),
        )
        held_out.order = evaluation_order(trainer)
        began_s = time.perf_counter()
        logged = held_out_metrics(trainer.evaluate())
        evaluation_s = time.perf_counter() - began_s
    columns = held_out.predictions(tokenizer)
    scores, writing_notes = written_columns(model, plan, data, prepared, tokenizer)
    columns |= scores
    report = quality_report(task.metrics, columns, prepared.label_names)
    target = predictions_file(output_dir)
    with output_errors(target):
        write_predictions(target, columns, items=prepared.eval_items, label_names=prepared.label_names)
    notes = [*rows.notes, *writing_notes]
    if shared := rows.findings.cross_split_duplicates:
        notes.append(f"{shared} training rows have the same text as rows of this data: the figures are too good")
    return ModelEvaluation(
        run=str(run),
        method=plan.strategy.method,
        data=data,
        metrics={**logged, **{name: figure.value for name, figure in report.figures.items()}},
        quality=report,
        evaluation_s=evaluation_s,
        samples_per_s=report.items / evaluation_s,
        output_dir=str(output_dir),
        notes=tuple(notes),
    )
