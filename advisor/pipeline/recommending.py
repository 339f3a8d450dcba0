"""Job: which plan, under a budget."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from advisor.core.budget import Budget
from advisor.core.objective import DEFAULT_OBJECTIVE, check_floor, get_objective
from advisor.core.recommendation import Recommendation
from advisor.core.strategy import StrategyConfig
from advisor.pipeline.environment import named_device, this_machine
from advisor.pipeline.events import OnEvent, counted_progress, phase
from advisor.pipeline.evidence import check_evidence, with_evidence
from advisor.pipeline.inputs import DataSource, ModelSource, load_inputs, tell_remarks
from advisor.pipeline.outputs import refuse_existing_file
from advisor.pipeline.predicting import check_bounds, cost_model_for
from advisor.pipeline.task_probing import can_be_probed, probe_first, with_probe
from advisor.pipeline.trace_prefetch import prefetched_traces
from advisor.search.planner import PlanRequest, SpeedKnobs, candidates, recommend_plans, with_epochs


def recommend(
    model: str | ModelSource,
    data: str | DataSource,
    *,
    budget: Budget | None = None,
    device: str = "auto",
    methods: Sequence[str | StrategyConfig] | None = None,
    knobs: Mapping[str, Any] | None = None,
    effective_batch_size: int = 32,
    evidence_s: float | None = None,
    probe: bool = True,
    objective: str = DEFAULT_OBJECTIVE.name,
    seed: int = 42,
    speed: SpeedKnobs | None = None,
    output: Path | str | None = None,
    force: bool = False,
    on_event: OnEvent | None = None,
) -> Recommendation:
    """Rank plans inside a budget, say why every other method lost, and write the best as ``plan.json``.

    Args:
        model: Folder, ``config.json`` with a tokenizer beside it, GGUF file, hub id or demo model.
        data: File, ``datasets`` folder, hub id or demo data set.
        budget: Upper bounds; without one only the device's capacity counts.
        device: Profile to plan for; ``"auto"`` is this machine.
        methods: Consider only these: names, or complete configurations.
        knobs: Values by name, shared knobs or methods' own, instead of the defaults of every method that has them.
        effective_batch_size: Micro-batch x accumulation, kept the same for all methods.
        evidence_s: Spend so much time on short real runs that sharpen the quality prediction.
        probe: First probe the task where that is cheap (``task_probing``): weights and labelled rows are at hand, the
            plans are for this machine, and it fits into the memory limit. It takes a tenth of the time budget at most,
            and never more than a minute. No plan is then recommended that is not expected to beat the probe.
        objective: ``"quality"``; ``"cheapest"`` or ``"fastest"`` above ``budget.min_quality``; or ``"pareto"``: first
            those plans that no other beats in quality, time and memory at once.
        seed: Of the plans' training, and of the short runs.
        speed: Execution knobs that are not to be chosen.
        output: Where to write the best plan; nothing is written when nothing fits.
        force: Replace an existing ``output``.
        on_event: Receives the job's events (:mod:`advisor.core.events`).

    Returns:
        Ranked plans, best first; ``ranked`` is empty when nothing fits, and ``advice`` says what would.

    Raises:
        InputError: anything about the inputs that cannot be used.
    """
    profile, aim = named_device(device), get_objective(objective)
    check_methods(methods)
    aim.check(budget or Budget())
    target = Path(output) if output is not None else None
    if target is not None and not force:
        refuse_existing_file(target)
    inputs = load_inputs(model, data, on_event)
    check_floor(budget.min_quality if budget is not None else None, inputs.model.traits.metric)
    found = candidates(inputs.model, methods, knobs)
    tell_remarks(found.usable, on_event)
    profile = profile or this_machine(on_event)
    if evidence_s is not None:
        check_evidence(inputs.model, profile)
    wanted = probe and can_be_probed(inputs)
    report = probe_first(inputs, budget or Budget(), profile, on_event) if wanted else None
    from advisor.costmodel.quality.probed import ProbedQuality

    phase(on_event, "comparing strategies")
    cost_model = cost_model_for(profile, on_event)
    check_bounds(budget or Budget(), cost_model)
    request = PlanRequest(
        inputs.model,
        inputs.data,
        inputs.profile,
        budget or Budget(),
        effective_batch_size,
        seed,
        speed or SpeedKnobs(),
        aim,
    )
    with prefetched_traces(request, cost_model, found):
        recommendation = recommend_plans(request, cost_model, found, on_progress=counted_progress(on_event))
    if isinstance(report, str):
        recommendation = dataclasses.replace(recommendation, advice=(*recommendation.advice, report))
    elif report is not None:
        if "num_train_epochs" not in (knobs or {}):
            complete = [item for item in methods or () if isinstance(item, StrategyConfig)]
            recommendation = with_epochs(recommendation, ProbedQuality(report), cost_model, complete)
        recommendation = with_probe(recommendation, report)
    if evidence_s is not None and recommendation.ranked:
        recommendation = with_evidence(recommendation, evidence_s, on_event)
    if target is not None and recommendation.best is not None:
        recommendation.best.save(target)
    return recommendation


def check_methods(methods: Sequence[str | StrategyConfig] | None) -> None:
    """Refuse unknown methods before anything is loaded.

    Raises:
        InputError: with near matches.
    """
    from advisor.strategies import get_strategy

    for method in methods or ():
        get_strategy(method if isinstance(method, str) else method.method)
