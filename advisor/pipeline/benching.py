"""Job: a benchmark suite on this machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from advisor.core.errors import AdvisorError, NothingFitsError
from advisor.core.plan import Plan
from advisor.pipeline.events import OnEvent, counted_progress, phase
from advisor.pipeline.inputs import DataSource, ModelSource, as_data_source
from advisor.pipeline.recommending import check_methods, recommend

if TYPE_CHECKING:
    from advisor.experiments.speed import SpeedComparison

DEFAULT_METHODS = ("lora", "full")
"""What the published comparison trains."""


def bench_speed(
    model: str | ModelSource,
    data: str | DataSource,
    *,
    methods: Sequence[str] = DEFAULT_METHODS,
    train_rows: int = 256,
    eval_rows: int = 400,
    seeds: int = 3,
    on_comparison: Callable[[SpeedComparison], None] = lambda comparison: None,
    on_event: OnEvent | None = None,
) -> tuple[SpeedComparison, ...]:
    """Recommend a plan for each method and train it in turn with the published recipe and the plain Trainer.

    All arms of a method share model, rows, learning rate, schedule, epochs (one) and effective batch, which is the
    published recipe's; they differ in how the step is executed.

    Args:
        model: With weights.
        data: Labelled.
        methods: One comparison each.
        train_rows: Rows per training.
        eval_rows: Held-out rows that judge each training.
        seeds: Rounds; three or more show the noise of the quality.
        on_comparison: Given every method's comparison as soon as it stands; the rounds that are whole, when a training
            fails or Ctrl-C ends it.
        on_event: Receives the job's events (:mod:`advisor.core.events`).

    Raises:
        InputError: anything about the inputs that cannot be used.
        NothingFitsError: no plan of a method fits this machine.
        RunFailed: a training did not come to its end.
    """
    from advisor.experiments.speed import reference_batch_size

    check_methods(methods)
    source = dataclasses.replace(as_data_source(data), max_train_rows=train_rows, max_eval_rows=eval_rows)
    comparisons = []
    for method in methods:
        answer = recommend(
            model,
            source,
            methods=[method],
            effective_batch_size=reference_batch_size(method),
            num_train_epochs=1,
            on_event=on_event,
        )
        plan = _required(answer.best, method)
        phase(on_event, f"training {method} in turn")
        rounds = range(plan.seed, plan.seed + seeds)
        comparison, failure = _compared_in_turn(plan, rounds, on_event)
        if comparison is not None:
            comparisons.append(comparison)
            on_comparison(comparison)
        if failure is not None:
            raise failure
    return tuple(comparisons)


def _compared_in_turn(
    plan: Plan, seeds: Sequence[int], on_event: OnEvent | None
) -> tuple[SpeedComparison | None, BaseException | None]:
    """What the finished rounds say, if any, and what kept the others from finishing, if anything."""
    from advisor.experiments.speed import BenchmarkRun, compared, recipes_for, train_in_turn

    recipes, runs = recipes_for(plan), list[BenchmarkRun]()
    failure: BaseException | None = None
    try:
        for run in train_in_turn(plan, recipes, seeds, on_progress=counted_progress(on_event)):
            runs.append(run)
    except (AdvisorError, KeyboardInterrupt) as raised:
        failure = raised
    return compared(plan, recipes, runs), failure


def _required(plan: Plan | None, method: str) -> Plan:
    if plan is None:
        raise NothingFitsError(f"no plan of {method} fits this machine", fix="name another method")
    return plan
