"""Job: search method, rank and relative learning rate with real trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advisor.core.budget import Budget
from advisor.core.store import ensure_writable_dir
from advisor.pipeline.environment import this_machine
from advisor.pipeline.events import OnEvent, phase
from advisor.pipeline.inputs import DataSource, ModelSource, load_inputs
from advisor.pipeline.outputs import PLAN_FILE, refuse_existing_file
from advisor.pipeline.predicting import cost_model_for
from advisor.pipeline.recommending import check_methods

if TYPE_CHECKING:
    from advisor.search.study import TuneResult


def tune(
    model: str | ModelSource,
    data: str | DataSource,
    *,
    study_dir: Path | str,
    budget: Budget | None = None,
    wall_clock_s: float = 3600.0,
    methods: Sequence[str] | None = None,
    knobs: Mapping[str, Any] | None = None,
    max_trials: int | None = None,
    effective_batch_size: int = 32,
    seed: int = 42,
    resume: bool = False,
    output: Path | str | None = None,
    force: bool = False,
    resume_command: str | None = None,
    on_event: OnEvent | None = None,
) -> TuneResult:
    """Run a study whose trials train for real on this machine, each in its own process.

    Args:
        model: Folder, GGUF file, hub id or demo model; weights are needed.
        data: File, ``datasets`` folder, hub id or demo data set.
        study_dir: The study's journal and files; with ``resume`` it is continued.
        budget: Memory and time bounds of the final run; candidates outside it are never started.
        wall_clock_s: How long the study may take.
        methods: Search only these.
        knobs: Values by name that are given instead of searched, for every method that has them.
        max_trials: Stop after so many trials.
        effective_batch_size: Kept the same for all trials.
        seed: Of sampler, hold-out and training.
        resume: Continue the study in ``study_dir``.
        output: Where to write the winner's plan; ``plan.json`` in the study's folder when ``None``.
        force: Replace an existing ``output``.
        resume_command: Shown when the user interrupts.
        on_event: Told about trials and their steps (:mod:`advisor.core.events`).

    Raises:
        InputError: anything about the inputs that cannot be used.
        NothingFitsError: no candidate fits the budget.
        InterruptedByUser: Ctrl-C; every finished trial is kept.
    """
    from advisor.search.study import tune_study

    check_methods(methods)
    directory = Path(study_dir)
    target = Path(output) if output is not None else directory / PLAN_FILE
    if output is not None and not force:
        refuse_existing_file(target)
    ensure_writable_dir(directory)
    inputs = load_inputs(model, data, on_event)
    device = this_machine(on_event)
    phase(on_event, "tuning")
    result = tune_study(
        inputs.model,
        inputs.data,
        inputs.profile,
        cost_model_for(device, on_event),
        budget or Budget(),
        study_dir=directory,
        time_budget_s=wall_clock_s,
        methods=methods,
        knobs=knobs,
        max_trials=max_trials,
        effective_batch_size=effective_batch_size,
        seed=seed,
        resume=resume,
        resume_command=resume_command,
        on_event=on_event,
    )
    result.best.save(target)
    return result
