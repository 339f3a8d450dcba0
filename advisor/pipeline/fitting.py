"""Job: what fits into a given memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from advisor.core.budget import Budget
from advisor.core.errors import DeviceError
from advisor.core.model import ModelSpec
from advisor.core.strategy import StrategyConfig
from advisor.pipeline.environment import check_device, resolve_device
from advisor.pipeline.events import OnEvent, counted_progress, note, phase
from advisor.pipeline.inputs import ModelSource, check_length, inspect
from advisor.pipeline.predicting import DEFAULT_SEQ_LENGTH, cost_model_for
from advisor.pipeline.recommending import check_methods, configurations

if TYPE_CHECKING:
    from advisor.search.fitting import FitAnswer


def fit(
    model: str | ModelSource,
    *,
    budget: Budget | None = None,
    device: str = "auto",
    methods: Sequence[str] | None = None,
    micro_batch_size: int = 1,
    seq_length: int | None = None,
    rank: int | None = None,
    padded: bool = True,
    num_labels: int = 2,
    peft_config: Mapping[str, Any] | None = None,
    cards: bool = True,
    all_setups: bool = False,
    on_event: OnEvent | None = None,
) -> FitAnswer:
    """Per method the largest micro-batch, length and rank that fit, and the smallest card it needs.

    Args:
        model: Folder, ``config.json``, GGUF file, hub id or demo model.
        budget: Its memory and safety level; without a memory bound the device's capacity counts.
        device: Whose memory it is; ``"auto"`` is this machine.
        methods: Look only at these.
        micro_batch_size: Held while the largest length and rank are searched.
        seq_length: Held while the largest batch and rank are searched; 128, or the model's positions if fewer, when
            ``None``.
        rank: Instead of the methods' own default.
        padded: Whether batches hold padding.
        num_labels: Classes of the head.
        peft_config: Configuration of the method ``peft``, which is looked at only with one.
        cards: Also find the smallest known card for each set-up.
        all_setups: Also trace leaner data types and optimizers where a preferred one fits.
        on_event: Receives the job's events (:mod:`advisor.core.events`).

    Raises:
        InputError: anything about the inputs that cannot be used.
    """
    from advisor.search.fitting import FitRequest, fit_methods

    check_device(device)
    check_methods(methods)
    phase(on_event, "inspecting the model")
    spec = inspect(model, num_labels=num_labels)
    length = seq_length or min(DEFAULT_SEQ_LENGTH, spec.max_positions or DEFAULT_SEQ_LENGTH)
    check_length(spec, length)
    profile = resolve_device(device, on_event)
    budget = budget or Budget()
    limit_bytes = budget.memory_limit_bytes(profile)
    if budget.memory_bytes is not None and budget.memory_bytes > profile.memory_bytes:
        note(on_event, f"{profile.id} has only {profile.memory_bytes / 2**30:.1f} GiB: that is the limit")
    phase(on_event, "tracing training steps")
    return fit_methods(
        spec,
        cost_model_for(profile, on_event),
        FitRequest(micro_batch_size, length, limit_bytes, budget.safety_level, padded),
        methods=_asked(spec, methods, peft_config, rank),
        cards=_cards() if cards else None,
        all_setups=all_setups,
        on_progress=counted_progress(on_event),
    )


def _asked(
    model: ModelSpec, methods: Sequence[str] | None, peft_config: Mapping[str, Any] | None, rank: int | None
) -> list[str | StrategyConfig] | None:
    """Names, or configurations where a rank or a PEFT configuration was named; methods without a rank keep theirs."""
    asked = configurations(model, methods, None, peft_config)
    if rank is None:
        return asked
    from advisor.strategies import get_strategy, strategy_names

    ranked: list[str | StrategyConfig] = []
    for item in asked or strategy_names():
        strategy = get_strategy(item) if isinstance(item, str) else None
        usable = strategy is not None and strategy.user_knob is None and strategy.applies_to(model) is None
        default = strategy.configured(model) if strategy is not None and usable else None
        if strategy is not None and default is not None and default.rank is not None:
            ranked.append(strategy.configured(model, rank=rank))
        else:
            ranked.append(item)
    return ranked


def _cards() -> list[Any]:
    """All device profiles that can be read; a damaged file of the user's must not spoil the answer."""
    from advisor.hardware import load_profile, profile_names

    profiles = []
    for name in profile_names():
        try:
            profiles.append(load_profile(name))
        except DeviceError:
            continue
    return profiles
