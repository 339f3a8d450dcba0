"""What to trace, replay and measure, sized to the model and the machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from advisor.core.device import DeviceProfile
from advisor.core.model import ModelSpec
from advisor.core.plan import ExecutionPlan
from advisor.core.strategy import StrategyConfig
from advisor.costmodel.calibration.shapes import (
    Shape,
    feasible_shapes,
    known_nearby,
    most_tokens,
    states_fit,
    step_estimate_s,
    tokens,
    weights_dtype,
)

QUICK_STEP_S, FULL_STEP_S, LONGEST_STEP_S = 0.8, 3.0, 6.0
"""Longest step that is worth repeating: a quick calibration has a minute for everything, a full one ten. One
configuration of a full one may be longer, for the sake of large micro-batches."""
QUICK_LIMIT_S, FULL_LIMIT_S = 45.0, 540.0
"""When nothing new is begun any more: the last configuration, replays and fits follow."""
QUICK_END_S, FULL_END_S = 54.0, 570.0
"""When replays end, too; fits take some seconds."""
QUICK_REPLAY_S, FULL_REPLAY_S = 16.0, 150.0
QUICK_CALL_S, FULL_CALL_S = 0.03, 0.12
STEPS, SHORT_STEP_S, SHORT_STEPS = 5, 0.25, 15
"""Timed steps of a configuration; of one whose step is estimated to be short more: they cost little beside starting a
process, and on shared machines single steps of 0.1 s vary by a fifth."""
STATEFUL = ("full", "partial")
"""Methods with gradients and optimizer states of most weights."""


@dataclass(frozen=True)
class Item:
    """One configuration of the agenda.

    Attributes:
        evaluated: Its evaluation pass is traced and measured too.
        steps: To time, after the warm-up.
    """

    strategy: StrategyConfig
    execution: ExecutionPlan
    seq_length: int
    evaluated: bool = False
    steps: int = STEPS


@dataclass(frozen=True)
class Agenda:
    """Everything one calibration does.

    Attributes:
        items: Configurations, the most useful first.
        replay_s, call_s: Wall clock for all replays and for one.
        warmup_steps: Of every configuration.
        limit_s: No configuration is begun later than this.
        end_s: No call is replayed later than this.
    """

    items: tuple[Item, ...]
    replay_s: float
    call_s: float
    warmup_steps: int = 2
    limit_s: float = FULL_LIMIT_S
    end_s: float = FULL_END_S


def make_agenda(model: ModelSpec, device: DeviceProfile, *, quick: bool, known: Sequence[Shape] = ()) -> Agenda:
    """Choose configurations for a model on a device.

    A quick agenda measures LoRA, full and head-only fine-tuning and QLoRA at up to three shapes; a full one adds more
    methods and shapes, checkpointing and the other precision.

    Args:
        model: Its size decides the shapes.
        device: Its rates decide them, too.
        quick: For a minute instead of ten.
        known: The shape of every configuration of this model that was measured before.
    """
    shapes = feasible_shapes(model, device, QUICK_STEP_S if quick else FULL_STEP_S)
    known = [shape for shape in known if tokens(shape) <= most_tokens(model, device)]
    of_several = {shape for shape in known if known.count(shape) > 1}  # the longest one is measured with one method
    three = known_nearby((shapes[0], shapes[len(shapes) // 2], shapes[-1]), of_several)
    usual = _usual_knobs(model, device)
    if quick:
        items = _with_steps(_quick_items(model, three, usual), model, device)
        return Agenda(items, QUICK_REPLAY_S, QUICK_CALL_S, limit_s=QUICK_LIMIT_S, end_s=QUICK_END_S)
    longest = feasible_shapes(model, device, LONGEST_STEP_S)[-1]
    (longest,) = known_nearby((longest,), [shape for shape in known if tokens(shape) > tokens(three[-1])])
    items = _with_steps(_full_items(model, three, longest, usual), model, device)
    return Agenda(items, FULL_REPLAY_S, FULL_CALL_S)


def _with_steps(items: list[Item | None], model: ModelSpec, device: DeviceProfile) -> tuple[Item, ...]:
    """Those that apply to the model, each once and with as many steps as its length deserves.

    Where few shapes are feasible, the list names some configurations several times.
    """
    once: dict[tuple[str, ExecutionPlan], Item] = {}
    left_out = () if states_fit(model, device) else STATEFUL
    for item in items:
        if item is None or item.strategy.method in left_out:
            continue
        key = (item.strategy.method, item.execution)
        twin = once.get(key, item)
        short = step_estimate_s(model, device, item.execution.micro_batch_size, item.seq_length) < SHORT_STEP_S
        once[key] = dataclasses.replace(
            item,
            evaluated=item.evaluated or twin.evaluated,
            steps=SHORT_STEPS if short else STEPS,
        )
    return tuple(once.values())


def _usual_knobs(model: ModelSpec, device: DeviceProfile) -> dict[str, object]:
    """What plans for this device mostly use: float32 and its best number of threads on a CPU, bfloat16 where there are
    tensor cores for it.
    """
    if device.type == "cpu":
        return {"num_threads": device.num_threads}
    if "bfloat16" not in device.dtypes:
        return {}
    return {"dtype": "bfloat16"} if weights_dtype(model, device) == "bfloat16" else {"amp": "bf16"}


def _quick_items(model: ModelSpec, shapes: tuple[Shape, ...], usual: dict[str, object]) -> list[Item | None]:
    small, middle, large = shapes
    return [
        _item(model, "lora", large, usual, evaluated=True),
        _item(model, "full", middle, usual),
        _item(model, "head", middle, usual, evaluated=True),
        _item(model, "qlora", middle, usual),
        _item(model, "lora", small, usual, evaluated=True),
    ]


def _full_items(
    model: ModelSpec, shapes: tuple[Shape, ...], longest: Shape, usual: dict[str, object]
) -> list[Item | None]:
    small, middle, large = shapes
    grid = [
        ("full", small), ("lora", large), ("head", middle), ("partial", middle), ("full", middle), ("ia3", middle),
        ("lora", small), ("qlora", middle), ("lora", middle), ("full", large), ("head", large), ("qlora", small),
        ("partial", large), ("high_rank_lora", middle), ("hira", middle), ("sparse_lora", small),
    ]  # fmt: skip
    items = [_item(model, method, shape, usual, evaluated=index < 3) for index, (method, shape) in enumerate(grid)]
    other: dict[str, object] = {} if {"amp", "dtype"} & usual.keys() else {**usual, "amp": "bf16"}
    return [
        *items,
        _item(model, "lora", longest, usual) if tokens(longest) > tokens(large) else None,
        _item(model, "lora", middle, {**usual, "gradient_checkpointing": True}),
        _item(model, "full", small, {**usual, "gradient_checkpointing": True}),
        _item(model, "full", middle, other),
        _item(model, "lora", small, other),
    ]


def _item(
    model: ModelSpec,
    method: str,
    shape: Shape,
    knobs: dict[str, object],
    *,
    evaluated: bool = False,
) -> Item | None:
    """An item, or ``None`` when the method does not apply to the model."""
    from advisor.strategies import get_strategy

    strategy = get_strategy(method)
    if strategy.applies_to(model) is not None:
        return None
    execution = dataclasses.replace(ExecutionPlan(shape[0], max_seq_length=shape[1]), **knobs)  # type: ignore[arg-type]
    return Item(strategy.default_config(model), execution, shape[1], evaluated)
