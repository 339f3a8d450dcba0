"""Job: what fits into a given memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from advisor.core.budget import Budget
from advisor.core.strategy import StrategyConfig
from advisor.pipeline.environment import named_device, this_machine
from advisor.pipeline.events import OnEvent, counted_progress, note, phase
from advisor.pipeline.inputs import ModelSource, check_length, inspect, tell_remarks
from advisor.pipeline.predicting import DEFAULT_SEQ_LENGTH, check_bounds, cost_model_for
from advisor.pipeline.recommending import check_methods

if TYPE_CHECKING:
    from advisor.search.fitting import FitAnswer


def fit(
    model: str | ModelSource,
    *,
    budget: Budget | None = None,
    device: str = "auto",
    methods: Sequence[str | StrategyConfig] | None = None,
    knobs: Mapping[str, Any] | None = None,
    micro_batch_size: int = 1,
    seq_length: int | None = None,
    padded: bool = True,
    num_labels: int = 2,
    cards: bool = True,
    all_setups: bool = False,
    on_event: OnEvent | None = None,
) -> FitAnswer:
    """Per method the largest micro-batch, length and rank that fit, and the smallest card it needs.

    Args:
        model: Folder, ``config.json``, GGUF file, hub id or demo model.
        budget: Its memory, latency, saved size and safety level; without a memory bound the device's capacity counts.
        device: Whose memory it is; ``"auto"`` is this machine.
        methods: Look only at these: names, or complete configurations.
        knobs: Values by name, shared knobs or methods' own, instead of the defaults of every method that has them.
        micro_batch_size: Held while the largest length and rank are searched.
        seq_length: Held while the largest batch and rank are searched; 128, or the model's positions if fewer, when
            ``None``.
        padded: Whether batches hold padding.
        num_labels: Classes of the head.
        cards: Also find the smallest known card for each set-up.
        all_setups: Also trace leaner data types and optimizers where a preferred one fits.
        on_event: Receives the job's events (:mod:`advisor.core.events`).

    Raises:
        InputError: anything about the inputs that cannot be used.
    """
    from advisor.search.fitting import FitRequest, fit_methods
    from advisor.search.planner import candidates, known_devices

    profile = named_device(device)
    check_methods(methods)
    phase(on_event, "inspecting the model")
    spec = inspect(model, num_labels=num_labels)
    length = seq_length or min(DEFAULT_SEQ_LENGTH, spec.max_positions or DEFAULT_SEQ_LENGTH)
    check_length(spec, length)
    profile = profile or this_machine(on_event)
    budget = budget or Budget()
    limit_bytes = budget.memory_limit_bytes(profile)
    if budget.memory_bytes is not None and budget.memory_bytes > profile.memory_bytes:
        note(on_event, f"{profile.id} has only {profile.memory_bytes / 2**30:.1f} GiB: that is the limit")
    check_bounds(budget)
    found = candidates(spec, methods, knobs)
    tell_remarks(found.usable, on_event)
    phase(on_event, "tracing training steps")
    return fit_methods(
        spec,
        cost_model_for(profile, on_event),
        FitRequest(
            *(micro_batch_size, length, limit_bytes, budget.safety_level, padded),
            max_latency_s=budget.max_latency_s,
            max_saved_size_bytes=budget.max_saved_size_bytes,
        ),
        found,
        cards=known_devices() if cards else None,
        all_setups=all_setups,
        on_progress=counted_progress(on_event),
    )
