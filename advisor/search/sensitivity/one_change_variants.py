"""The configurations one choice away from a given one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

from advisor.core.device import DeviceProfile
from advisor.core.errors import InputError
from advisor.core.model import ModelSpec
from advisor.core.plan import ExecutionPlan
from advisor.core.strategy import StrategyConfig
from advisor.hardware.backends import backend_of
from advisor.search.planner.precision import is_frozen_base
from advisor.strategies import Strategy, find_strategy, get_strategy
from advisor.strategies.skeleton import attention_implementations

CHECKPOINTING = "checkpointing"
FOUR_BIT = "4-bit weights"
EIGHT_BIT = "8-bit optimizer states"
FUSED_LOSS = "the fused-linear loss"
SDPA = "sdpa attention"
HALF_BATCH = "half the batch, accumulated twice"

REPUTATION = (FOUR_BIT, CHECKPOINTING, EIGHT_BIT, "bf16 weights", "bf16 mixed precision", FUSED_LOSS, HALF_BATCH)
"""What people try first when memory is short, most tempting first."""

_TORCH_ADAMW = ("adamw_torch", "adamw_torch_fused")


@dataclass(frozen=True)
class Neighbour:
    """A configuration that differs in one choice.

    Attributes:
        name: The choice in words: ``"checkpointing"``, ``"4-bit weights"``.
        options: How to ask ``predict`` for it.
        strategy, execution: The configuration.
        undoes: It takes back a choice that is already made; what it would cost is what the choice saves.
        learns_differently: It changes what is learned or its precision, not only what it costs.
    """

    name: str
    options: str
    strategy: StrategyConfig
    execution: ExecutionPlan
    undoes: bool = False
    learns_differently: bool = False


def neighbours(
    model: ModelSpec, strategy: StrategyConfig, execution: ExecutionPlan, device: DeviceProfile
) -> tuple[Neighbour, ...]:
    """One choice away: checkpointing, data types, quantisation, optimizer, loss, attention, batch split, method.

    Args:
        model: Decides which choices exist (attention kernels, language-model loss).
        strategy: The configuration's own.
        execution: The configuration's own.
        device: Which data types train there, and whether 8-bit optimizers run.
    """
    found = [
        *_switches(model, strategy, execution, device),
        *_precisions(strategy, execution, device),
        *_methods(model, strategy, execution),
    ]
    return tuple(found)


def _switches(
    model: ModelSpec, strategy: StrategyConfig, execution: ExecutionPlan, device: DeviceProfile
) -> Iterator[Neighbour]:
    on = execution.gradient_checkpointing
    yield Neighbour(
        CHECKPOINTING,
        "--no-gradient-checkpointing" if on else "--gradient-checkpointing",
        strategy,
        replace(execution, gradient_checkpointing=not on),
        undoes=on,
    )
    if backend_of(device).setups.eight_bit_optimizers and execution.optim in _TORCH_ADAMW:
        yield Neighbour(
            EIGHT_BIT, "--optim adamw_bnb_8bit", strategy, replace(execution, optim="adamw_bnb_8bit"),
            learns_differently=True,
        )  # fmt: skip
    if model.traits.predicts_next_token and execution.loss == "standard":
        yield Neighbour(FUSED_LOSS, "--loss fused-linear", strategy, replace(execution, loss="fused-linear"))
    if execution.attn_implementation == "eager" and "sdpa" in attention_implementations(model):
        yield Neighbour(
            SDPA, "--attn-implementation sdpa", strategy, replace(execution, attn_implementation="sdpa")
        )  # fmt: skip
    rows, steps = execution.micro_batch_size, execution.gradient_accumulation_steps
    if rows % 2 == 0:
        halved = replace(
            execution,
            micro_batch_size=rows // 2,
            gradient_accumulation_steps=2 * steps,
            eval_batch_size=min(execution.evaluation_batch_size, rows // 2),
        )
        options = f"--micro-batch-size {rows // 2} --gradient-accumulation-steps {2 * steps}"
        yield Neighbour(HALF_BATCH, options, strategy, halved)


def _precisions(strategy: StrategyConfig, execution: ExecutionPlan, device: DeviceProfile) -> Iterator[Neighbour]:
    """Half precision where there is none yet: mixed, and of the weights themselves."""
    if execution.dtype != "float32" or "bfloat16" not in device.dtypes:
        return
    if execution.amp == "none":
        yield Neighbour("bf16 mixed precision", "--amp bf16", strategy, replace(execution, amp="bf16"))
    frozen = is_frozen_base(strategy)
    weights = replace(execution, dtype="bfloat16", amp="bf16" if frozen else "none")
    options = "--dtype bf16 --amp bf16" if frozen else "--dtype bf16"
    yield Neighbour("bf16 weights", options, strategy, weights, learns_differently=not frozen)


def _methods(model: ModelSpec, strategy: StrategyConfig, execution: ExecutionPlan) -> Iterator[Neighbour]:
    """Other methods that people weigh against this one; knobs that both have are kept."""
    own = get_strategy(strategy.method)
    for other in map(find_strategy, own.alternatives):
        configured = _configured(other, model, strategy) if other is not None else None
        if other is None or configured is None:
            continue
        # Where no knob is lost and storage alone differs, the change is one of the weights' storage.
        kept = issubclass(own.knobs, other.knobs) or (bool(fields(own.knobs)) and issubclass(other.knobs, own.knobs))
        stored = other.stores_4bit_weights != own.stores_4bit_weights and kept
        name = FOUR_BIT if stored else other.title
        yield Neighbour(
            name, f"--method {other.name}", configured, execution, stored and own.stores_4bit_weights,
            learns_differently=True,
        )  # fmt: skip


def _configured(other: Strategy, model: ModelSpec, strategy: StrategyConfig) -> StrategyConfig | None:
    """``other`` with the knobs that it shares with ``strategy``, or ``None`` where it does not suit the model."""
    try:
        if other.applies_to(model) is not None:
            return None
        kept = {knob.name: strategy.knob(knob.name) for knob in fields(other.knobs)}
        config = other.configured(model, **{name: value for name, value in kept.items() if value is not None})
        return config if not other.problems(config, model) else None
    except InputError:
        return None
