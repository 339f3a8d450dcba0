"""Job: a benchmark suite on this machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advisor.core.errors import InputError, InterruptedByUser, NothingFitsError, RunFailed
from advisor.core.events import OnEvent
from advisor.core.plan import Plan
from advisor.core.store import ensure_writable_dir
from advisor.hardware.versions import installed_versions
from advisor.pipeline.events import phase, progress
from advisor.pipeline.inputs import DataSource, ModelSource, as_data_source
from advisor.pipeline.recommending import check_methods, recommend

if TYPE_CHECKING:
    from advisor.experiments.grid import CellResult, Stopped
    from advisor.experiments.speed.compare import SpeedComparison

SPEED = "speed"
SUITES = (SPEED,)
"""What can be benchmarked."""


def bench(
    suite: str,
    model: str | ModelSource,
    data: str | DataSource,
    *,
    methods: Sequence[str] | None = None,
    train_rows: int = 256,
    eval_rows: int = 400,
    seeds: int = 3,
    output: Path | None = None,
    resume: bool = True,
    on_comparison: Callable[[SpeedComparison], None] = lambda comparison: None,
    on_event: OnEvent | None = None,
) -> tuple[SpeedComparison, ...]:
    """Run a benchmark suite.

    ``"speed"`` recommends a plan for each method, and trains it alternating with the published recipe and the plain
    Trainer.

    All arms of a method share model, rows, learning rate, schedule, epochs (one) and effective batch, which is the
    published recipe's; they differ in how the step is executed. A training that fails ends neither its method nor the
    others; only rounds that every arm completed are compared.

    Args:
        suite: One of ``SUITES``.
        model: With weights.
        data: Labelled.
        methods: One comparison each; those of the published comparison when ``None``.
        train_rows: Rows per training.
        eval_rows: Held-out rows that judge each training.
        seeds: Rounds; three or more show the noise of the quality.
        output: Folder of the records, so that another call continues; nothing is kept when ``None``.
        resume: With ``output``: keep the trainings that completed before.
        on_comparison: Called with every method's comparison as soon as it is there, Ctrl-C included.
        on_event: Receives the job's events (:mod:`advisor.core.events`).

    Raises:
        InputError: anything about the inputs that cannot be used.
        NothingFitsError: no plan of a method fits this machine.
        RunFailed: trainings did not complete; the others are compared.
        InterruptedByUser: Ctrl-C; the trainings before are compared.
    """
    from advisor.experiments.speed.compare import published_methods, reference_batch_size

    if suite not in SUITES:
        raise InputError(f"the suite must be one of {', '.join(SUITES)}, but got {suite!r}")
    chosen = published_methods() if methods is None else methods
    check_methods(chosen)
    if output is not None:
        ensure_writable_dir(output)
    source = dataclasses.replace(as_data_source(data), max_train_rows=train_rows, max_eval_rows=eval_rows)
    comparisons: list[SpeedComparison] = []
    failures: dict[str, CellResult[Any]] = {}
    for method in chosen:
        answer = recommend(
            model,
            source,
            methods=[method],
            knobs={"num_train_epochs": 1},
            effective_batch_size=reference_batch_size(method),
            on_event=on_event,
        )
        if answer.best is None:
            raise NothingFitsError(f"no plan of {method} fits this machine", fix="name another method")
        seeds_of = range(answer.best.seed, answer.best.seed + seeds)
        comparison, stopped = _train_in_turn(answer.best, seeds_of, output, resume, failures, on_event)
        if comparison is not None:
            comparisons.append(comparison)
            on_comparison(comparison)
        if stopped:
            raise InterruptedByUser("stopped by Ctrl-C; the finished rounds are shown")
    if failures:
        label, first = next(iter(failures.items()))
        raise first.error or RunFailed(
            f"{len(failures)} trainings did not complete; {label}: {first.outcome.replace('_', ' ')}, {first.reason}",
            fix="the finished rounds are shown; with --output the same command runs only what is missing",
        )
    return tuple(comparisons)


def _train_in_turn(
    plan: Plan,
    seeds: Sequence[int],
    output: Path | None,
    resume: bool,
    failures: dict[str, CellResult[Any]],
    on_event: OnEvent | None,
) -> tuple[SpeedComparison | None, Stopped]:
    """What the finished rounds say, if any, and why there are no more, if it was stopped; adds to ``failures``."""
    from advisor.experiments.grid import CellEvent, content_key, in_own_process, run_cells
    from advisor.experiments.speed.compare import FORMAT, compared, recipes_for, training_cells
    from advisor.experiments.speed.train import train_arm
    from advisor.experiments.store import GridHeader, RecordStore

    recipes = recipes_for(plan)
    cells, report = training_cells(plan, recipes, seeds), progress(on_event)

    def show(event: CellEvent[Any, Any]) -> None:
        if event.result is None:
            report(event.cell.label, (event.number - 1) / event.total)
        elif event.result.outcome != "completed":
            failures[event.cell.label] = event.result

    phase(on_event, f"training {plan.strategy.method} and its baselines")
    header = GridHeader(SPEED, plan.device, installed_versions(), datetime.now(UTC).isoformat(timespec="seconds"))
    name = f"{SPEED}-{plan.strategy.method}-{plan.device}-{content_key(header.versions)}.jsonl"
    with RecordStore(output / name if output is not None else None, header, FORMAT, resume=resume) as store:
        stopped = run_cells(cells, in_own_process(train_arm), store, on_event=show)
        found = [store.records[cell.key].value for cell in cells if cell.key in store.records]
    return compared(plan, recipes, [run for run in found if run is not None]), stopped
