"""Which runs can share one pass through a frozen model (``training.packing``)."""

from __future__ import annotations

from collections.abc import Sequence

from advisor.core.errors import InputError
from advisor.core.plan import BITSANDBYTES_OPTIMIZERS, Plan
from advisor.core.strategy import StrategyConfig
from advisor.strategies.registry import get_strategy

SAME = {"model": "model", "data": "data", "execution": "execution knobs", "device": "device"}
"""Parts of a plan that all members share."""

SAME_KNOBS = {"target_modules": "target modules"}
"""Knobs that all members share."""


def pack_problem(plans: Sequence[Plan]) -> str | None:
    """Why these runs cannot share a forward pass, one sentence; ``None`` when they can.

    Members may differ in rank, alpha, dropout, seed and everything about learning rate, schedule and epochs.
    """
    if not plans:
        return "a pack needs a member"
    first = plans[0]
    if first.model.traits.learns_preferences:
        return f"members of a pack must be trained by the stock Trainer, but the task is {first.model.task}"
    for part, title in SAME.items():
        if any(getattr(plan, part) != getattr(first, part) for plan in plans):
            return f"members of a pack must have the same {title}, but they differ"
    for plan in plans:
        if not get_strategy(plan.strategy.method).packable:
            return f"members of a pack must be LoRA on frozen weights, but one is {plan.strategy.method}"
    strategies = [plan.strategy for plan in plans]
    for name, title in SAME_KNOBS.items():
        if any(s.knob(name) != first.strategy.knob(name) for s in strategies):
            return f"members of a pack must have the same {title}, but they differ"
    if any(_storage(s) != _storage(first.strategy) for s in strategies):
        return "members of a pack must store the frozen weights alike, but they differ in their quantisation"
    return _execution_problem(first)


def _storage(strategy: StrategyConfig) -> object:
    return get_strategy(strategy.method).quantization(strategy)


def _execution_problem(plan: Plan) -> str | None:
    execution, usual = plan.execution, type(plan.execution)(1)
    for name in ("torch_compile", "hold_outputs", "zero_grad_set_to_none"):
        if getattr(execution, name) != getattr(usual, name):
            return f"a pack must be trained with {name} {getattr(usual, name)}, but it is {getattr(execution, name)}"
    if execution.optim in BITSANDBYTES_OPTIMIZERS:
        return f"a pack needs an optimizer that keeps nothing for all models, but it is {execution.optim}"
    if execution.attn_implementation == "flash_attention_2":
        return "a pack needs rows that are told apart, but flash_attention_2 joins them"
    return None


def check_pack(plans: Sequence[Plan]) -> None:
    """Refuse runs that cannot share a forward pass.

    Raises:
        InputError: they cannot.
    """
    problem = pack_problem(plans)
    if problem is not None:
        raise InputError(problem, fix="train them one after the other")
