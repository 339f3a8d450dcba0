"""The benchmark core of a run that has just completed, put together in its process."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from advisor.core.benchmark import Benchmark, BenchmarkSettings, MeasuredFigure, predictions_file
from advisor.core.plan import Plan
from advisor.core.run import Measurement
from advisor.hardware.host_process import peak_resident_bytes
from advisor.measurement.efficiency import drift_figures, efficiency_figures, run_warnings
from advisor.measurement.forgetting import forgetting
from advisor.measurement.inference import footprint_bytes, inference_figures
from advisor.measurement.writing import written_columns
from advisor.training.data.predictions import write_predictions
from advisor.training.quality_report import quality_report
from advisor.training.run_folder import RunFolder
from advisor.training.switches import backend_of_plan
from advisor.training.tasks import get_task
from advisor.training.trainer import TrainedRun


def with_benchmark(
    plan: Plan,
    folder: RunFolder,
    measured: Measurement,
    trained: TrainedRun,
    states: Sequence[Mapping[str, Any]],
    settings: BenchmarkSettings,
) -> Measurement:
    """A completed run with its benchmark core; the predictions by item are written into its folder.

    Args:
        plan: Of the run.
        folder: Of the run.
        measured: What was measured so far.
        trained: The model and its last evaluation; inference changes the model.
        states: What the driver said of the device along the run.
        settings: What to measure.
    """
    began_s = time.perf_counter()
    if trained.data is None:
        raise ValueError("a run that had finished before has nothing left to measure")
    resident_peak_bytes = peak_resident_bytes()  # before anything else is imported
    task, runtime = get_task(plan.model.task), backend_of_plan(plan).runtime
    names = trained.data.label_names
    columns = trained.held_out.predictions(trained.tokenizer)
    limit_s, writing_notes = settings.inference_limit_s(measured.total_s), list[str]()
    if settings.inference and trained.model is not None:
        scores, writing_notes = written_columns(
            trained.model, plan, plan.data, trained.data, trained.tokenizer, limit_s=limit_s
        )
        columns |= scores
    report = quality_report(task.metrics, columns, names)
    measured = dataclasses.replace(
        measured, metrics={**measured.metrics, **{name: figure.value for name, figure in report.figures.items()}}
    )
    path = predictions_file(folder.path)
    if len(trained.data.eval_items) == report.items:
        write_predictions(path, columns, items=trained.data.eval_items, label_names=names)
    efficiency = efficiency_figures(
        measured,
        None if trained.samples is None else trained.samples.throughput,
        None if trained.model is None else footprint_bytes(trained.model),
        resident_peak_bytes,
        folder.model,
    )
    notes: list[str] = [*report.notes, *writing_notes]
    lost: dict[str, MeasuredFigure] = {}
    if settings.general_text is not None and trained.model is not None:
        try:
            lost = forgetting(trained.model, plan, settings.general_text, trained.tokenizer, runtime)
        except Exception as failure:  # the run is done; what is measured after it must not end it
            logging.getLogger(__name__).warning("forgetting cannot be measured", exc_info=True)
            notes.append(f"forgetting could not be measured: {str(failure).splitlines()[0][:200]}")
    if settings.inference and trained.model is not None:
        pruned = bool(measured.achieved_sparsity)
        figures, missing = inference_figures(
            trained.model, trained.data, plan.execution, runtime, limit_s=limit_s, pruned=pruned
        )
        efficiency |= figures
        notes += missing
    if measured.energy_j is None and measured.energy_source:
        notes.append(f"energy was not measured: {measured.energy_source}")
    core = Benchmark(
        quality=report if columns else None,
        efficiency=efficiency,
        drift=drift_figures(
            measured.step_times_s, trained.samples.memory if trained.samples is not None else (), states
        ),
        forgetting=lost,
        predictions=path.name if path.exists() else "",
        warnings=run_warnings(measured, task.traits.metric),
        notes=tuple(notes),
        measuring_s=time.perf_counter() - began_s,
    )
    return dataclasses.replace(measured, benchmark=core)


def with_allocated_peak(measured: Measurement, peak_bytes: int) -> Measurement:
    """A run whose allocated peak comes from profiled steps in a process of their own."""
    measured = dataclasses.replace(measured, allocated_peak_bytes=peak_bytes)
    if measured.benchmark is None:
        return measured
    figure = MeasuredFigure(
        peak_bytes, "memory events of profiled steps of the longest batch, in a process of their own"
    )
    efficiency = {**measured.benchmark.efficiency, "allocated_peak_bytes": figure}
    return dataclasses.replace(measured, benchmark=dataclasses.replace(measured.benchmark, efficiency=efficiency))
