"""What to trace, replay and measure, sized to the model and the machine."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from advisor.core.device import DeviceProfile
from advisor.core.model import ModelSpec
from advisor.core.plan import ExecutionPlan
from advisor.core.strategy import StrategyConfig

SHAPES = ((2, 16), (4, 32), (8, 32), (8, 64), (16, 64), (16, 128), (32, 128), (16, 256))
"""Candidates for (micro-batch size, padded length); the largest whose step stays short enough are taken."""
QUICK_STEP_S, FULL_STEP_S = 0.8, 3.0
"""Longest step that is worth repeating: a quick calibration has a minute for everything, a full one ten."""
QUICK_REPLAY_S, FULL_REPLAY_S = 16.0, 150.0
QUICK_CALL_S, FULL_CALL_S = 0.03, 0.12
REFERENCE_FLOPS_PER_S, REFERENCE_BYTES_PER_S = 5e10, 5e9
"""Assumed before anything was measured, only to choose shapes: a slow server core or two."""
ACTIVATION_PASSES = 200
"""How often a step reads or writes a tensor of one layer's activations. Traced on MiniLM: 250 to 260 at 64 tokens, 380
to 400 at 256; caches serve some of them, and the estimate only chooses shapes."""


@dataclass(frozen=True)
class Item:
    """One configuration of the agenda.

    Attributes:
        measured: Run real steps of it too.
        profiled: With one step under the memory profiler.
        held_back: Measured to test the fit only.
        evaluated: Its evaluation pass is traced and replayed too.
    """

    strategy: StrategyConfig
    execution: ExecutionPlan
    seq_length: int
    measured: bool = False
    profiled: bool = False
    held_back: bool = False
    evaluated: bool = False


@dataclass(frozen=True)
class Agenda:
    """Everything one calibration does.

    Attributes:
        items: Configurations, the most useful first.
        replay_s, call_s: Wall clock for all replays and for one.
        steps, warmup_steps: Of every measured configuration.
    """

    items: tuple[Item, ...]
    replay_s: float
    call_s: float
    steps: int
    warmup_steps: int = 2


def make_agenda(model: ModelSpec, device: DeviceProfile, *, quick: bool) -> Agenda:
    """Choose configurations for a model on a device.

    A quick agenda traces full fine-tuning, LoRA, head-only and QLoRA, and measures three of these steps; a full one
    adds more methods, shapes, checkpointing and bfloat16, and holds every fourth step back to test itself.
    """
    shapes = feasible_shapes(model, device, QUICK_STEP_S if quick else FULL_STEP_S)
    small, large = shapes[0], shapes[-1]
    middle = shapes[len(shapes) // 2]
    if quick:
        items: list[Item | None] = [
            _item(model, "lora", large, measured=True, profiled=True, evaluated=True),
            _item(model, "full", middle, measured=True, profiled=True),
            _item(model, "head", middle, measured=True, profiled=True, evaluated=True),
            _item(model, "lora", small, evaluated=True),
            _item(model, "full", small),
            _item(model, "qlora", small),
        ]
        return Agenda(_applicable(items), QUICK_REPLAY_S, QUICK_CALL_S, steps=4)
    return Agenda(_applicable(_full_items(model, (small, middle, large))), FULL_REPLAY_S, FULL_CALL_S, steps=7)


def _applicable(items: list[Item | None]) -> tuple[Item, ...]:
    return tuple(item for item in items if item is not None)


def _full_items(model: ModelSpec, shapes: tuple[tuple[int, int], ...]) -> list[Item | None]:
    small, middle, large = shapes
    grid = [
        ("full", small), ("lora", large), ("head", middle), ("partial", middle), ("full", large), ("ia3", middle),
        ("lora", small), ("qlora", middle), ("lora", middle), ("partial", large), ("head", large), ("qlora", small),
        ("full", middle), ("high_rank_lora", middle), ("hira", middle),
    ]  # fmt: skip
    items = [
        _item(
            model, method, shape, measured=True, profiled=index % 2 == 0, held_back=index % 4 == 3, evaluated=index < 3
        )
        for index, (method, shape) in enumerate(grid)
    ]
    checkpointed = _item(model, "lora", middle, measured=True, gradient_checkpointing=True)
    half = _item(model, "full", middle, measured=True, amp="bf16")
    return [*items, checkpointed, half]


def feasible_shapes(model: ModelSpec, device: DeviceProfile, step_s: float) -> list[tuple[int, int]]:
    """Shapes whose full fine-tuning step is estimated to stay under ``step_s``; at least the smallest one.

    The estimate is 6 FLOPs per parameter and token (Kaplan et al. 2020; embeddings left out because they are looked
    up), plus the traffic of activations.
    """
    rate = device.flops_per_s["float32"].value if "float32" in device.flops_per_s else REFERENCE_FLOPS_PER_S
    bandwidth = device.bytes_per_s["memory"].value if "memory" in device.bytes_per_s else REFERENCE_BYTES_PER_S
    embedding = model.vocab_size * model.hidden_size
    looked_up = embedding if model.task == "sequence-classification" else 0
    computed = max(model.total_parameters - looked_up, 1)
    traffic_bytes = 4 * ACTIVATION_PASSES * model.hidden_size * model.num_hidden_layers
    token_s = 6 * computed / rate + traffic_bytes / bandwidth
    limit = model.max_positions or 1 << 30
    shapes = [(rows, length) for rows, length in SHAPES if length <= limit and token_s * rows * length <= step_s]
    return sorted(shapes, key=lambda shape: shape[0] * shape[1]) or [SHAPES[0]]


def _item(
    model: ModelSpec,
    method: str,
    shape: tuple[int, int],
    *,
    measured: bool = False,
    profiled: bool = False,
    held_back: bool = False,
    evaluated: bool = False,
    **knobs: object,
) -> Item | None:
    """An item, or ``None`` when the method does not apply to the model."""
    from advisor.strategies import get_strategy

    strategy = get_strategy(method)
    if strategy.applies_to(model) is not None:
        return None
    execution = dataclasses.replace(ExecutionPlan(shape[0], max_seq_length=shape[1]), **knobs)  # type: ignore[arg-type]
    return Item(strategy.default_config(model), execution, shape[1], measured, profiled, held_back, evaluated)
