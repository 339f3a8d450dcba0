"""Job: which plan, under a budget."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from advisor.core.budget import Budget
from advisor.core.model import ModelSpec
from advisor.core.recommendation import RankedPlan, Recommendation
from advisor.core.strategy import StrategyConfig
from advisor.pipeline.environment import check_device, resolve_device, versions
from advisor.pipeline.events import OnEvent, counted_progress, phase
from advisor.pipeline.evidence import check_evidence, with_evidence
from advisor.pipeline.inputs import DataSource, ModelSource, check_strategy, load_inputs
from advisor.pipeline.outputs import refuse_existing_file
from advisor.pipeline.predicting import cost_model_for
from advisor.pipeline.trace_prefetch import plan_backwards, tracing_companion


def recommend(
    model: str | ModelSource,
    data: str | DataSource,
    *,
    budget: Budget | None = None,
    device: str = "auto",
    methods: Sequence[str] | None = None,
    effective_batch_size: int = 32,
    num_train_epochs: float | None = None,
    evidence_s: float | None = None,
    seed: int = 42,
    peft_config: Mapping[str, Any] | None = None,
    speed: Mapping[str, Any] | None = None,
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
        methods: Consider only these.
        effective_batch_size: Micro-batch x accumulation, kept the same for all methods.
        num_train_epochs: Instead of each method's default.
        evidence_s: Spend so much time on short real runs that sharpen the quality prediction.
        seed: Of the plans' training, and of the short runs.
        peft_config: Configuration of the method ``peft``, which is considered only with one.
        speed: ``group_by_length``, ``tf32``, ``torch_compile``, ``num_threads`` where they are not to be chosen.
        output: Where to write the best plan; nothing is written when nothing fits.
        force: Replace an existing ``output``.
        on_event: Receives the job's events (:mod:`advisor.core.events`).

    Returns:
        Ranked plans, best first; ``ranked`` is empty when nothing fits, and ``advice`` says what would.

    Raises:
        InputError: anything about the inputs that cannot be used.
    """
    from advisor.search.planner import SpeedKnobs, recommend_plans

    check_device(device)
    check_methods(methods)
    target = Path(output) if output is not None else None
    if target is not None and not force:
        refuse_existing_file(target)
    inputs = load_inputs(model, data, on_event)
    profile = resolve_device(device, on_event)
    if evidence_s is not None:
        check_evidence(inputs.model, profile)
    phase(on_event, "comparing strategies")
    budget = budget or Budget()
    cost_model = cost_model_for(profile, on_event)
    asked = configurations(inputs.model, methods, num_train_epochs, peft_config)
    with tracing_companion(
        cost_model, plan_backwards, inputs.model, inputs.profile, profile, budget, effective_batch_size, asked
    ):
        recommendation = recommend_plans(
            inputs.model,
            inputs.data,
            inputs.profile,
            cost_model,
            budget,
            effective_batch_size=effective_batch_size,
            methods=asked,
            seed=seed,
            speed=SpeedKnobs(**(speed or {})),
            on_progress=counted_progress(on_event),
        )
    if evidence_s is not None and recommendation.ranked:
        recommendation = with_evidence(recommendation, evidence_s, on_event)
    recommendation = with_versions(recommendation)
    if target is not None and recommendation.best is not None:
        recommendation.best.save(target)
    return recommendation


def configurations(
    model: ModelSpec,
    methods: Sequence[str] | None,
    num_train_epochs: float | None,
    peft_config: Mapping[str, Any] | None = None,
) -> list[str | StrategyConfig] | None:
    """What the planner is asked about: names, or configurations where epochs or a PEFT configuration were named.

    Methods that do not apply to the model stay names: the planner says why.
    """
    if num_train_epochs is None and peft_config is None:
        return list(methods) if methods is not None else None
    from advisor.strategies import get_strategy, strategy_names

    given = {} if peft_config is None else {"peft_config": dict(peft_config)}
    asked: list[str | StrategyConfig] = []
    for name in methods or strategy_names():
        strategy = get_strategy(name)
        knobs: dict[str, Any] = {"num_train_epochs": num_train_epochs} if num_train_epochs is not None else {}
        if strategy.user_knob is not None and strategy.user_knob in given:
            knobs[strategy.user_knob] = given[strategy.user_knob]
        usable = strategy.applies_to(model) is None and (strategy.user_knob is None or strategy.user_knob in knobs)
        config = strategy.configured(model, **knobs) if usable else None
        if config is not None and strategy.user_knob is not None:
            check_strategy(strategy, config, model)
        asked.append(config if config is not None and not strategy.problems(config, model) else name)
    return asked


def check_methods(methods: Sequence[str] | None) -> None:
    """Refuse unknown methods before anything is loaded.

    Raises:
        InputError: with near matches.
    """
    from advisor.strategies import get_strategy

    for method in methods or ():
        get_strategy(method)


def with_versions(recommendation: Recommendation) -> Recommendation:
    """The same recommendation whose plans say which libraries made them."""
    found = versions()

    def stamped(ranked: RankedPlan) -> RankedPlan:
        return dataclasses.replace(ranked, plan=dataclasses.replace(ranked.plan, versions=found))

    return dataclasses.replace(recommendation, ranked=tuple(stamped(ranked) for ranked in recommendation.ranked))
