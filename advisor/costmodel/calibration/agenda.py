"""What to trace, replay and measure, sized to the model and the machine."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from advisor.core.device import DeviceProfile
from advisor.core.model import ModelSpec
from advisor.core.plan import ExecutionPlan
from advisor.core.strategy import StrategyConfig
from advisor.costmodel.trace.ops import ITEM_BYTES

SHAPES = (
    (2, 16), (4, 32), (8, 32), (8, 64), (16, 64), (16, 128), (32, 128), (16, 256), (16, 512), (8, 1024), (8, 2048),
    (16, 2048), (16, 4096),
)  # fmt: skip
"""Candidates for (micro-batch size, padded length); the largest whose step stays short and small enough are taken."""
QUICK_STEP_S, FULL_STEP_S, LONGEST_STEP_S = 0.8, 3.0, 6.0
"""Longest step that is worth repeating: a quick calibration has a minute for everything, a full one ten. One
configuration of a full one may be longer, for the sake of large micro-batches."""
QUICK_LIMIT_S, FULL_LIMIT_S = 45.0, 540.0
"""When nothing new is begun any more: the last configuration, replays and fits follow."""
QUICK_REPLAY_S, FULL_REPLAY_S = 16.0, 150.0
QUICK_CALL_S, FULL_CALL_S = 0.03, 0.12
STEPS, SHORT_STEP_S, SHORT_STEPS = 5, 0.25, 15
"""Timed steps of a configuration; of one whose step is estimated to be short more: they cost little beside starting a
process, and on shared machines single steps of 0.1 s vary by a fifth."""
REFERENCE_FLOPS_PER_S, REFERENCE_BYTES_PER_S = 5e10, 5e9
"""Assumed before anything was measured, only to choose shapes: a slow server core or two."""
ACTIVATION_PASSES, SCORE_PASSES_PER_TOKEN = 200, 10 / 32
"""How often a step reads or writes a tensor of one layer's activations, and how much more of it per token of length
because of attention scores (a head every 32 values). Traced on MiniLM: 250 to 260 at 64 tokens, 380 to 400 at 256."""
STEP_OVER_ESTIMATE = 2.0
"""Random numbers, small products and the host make a step about twice as long as products and traffic at their best
rates: MiniLM's full step of 8 x 128 tokens took 0.67 s on two cores, the estimate without this factor says 0.37 s."""
KEPT_ITEMS_PER_VALUE = 17
"""Activations that one layer keeps for the backward pass, per token and hidden value (Korthikanti et al. 2022, equation
1: 34 bytes in half precision, without the attention scores)."""
LOGIT_COPIES = 4
"""Of a language model's logits in float32: themselves, their up-cast, the log-softmax and its gradient."""
STATES_PER_PARAMETER = 4
"""Weights, gradients and two optimizer states of full fine-tuning, all of the weights' data type."""
STATEFUL = ("full", "partial")
"""Methods with gradients and optimizer states of most weights."""
MEMORY_SHARE = 0.5
"""Of the free memory that a calibrating step may be estimated to take: the estimate is rough."""
LARGE_PARAMETERS = 10**9
"""Models from here on are calibrated with bfloat16 weights, as they are trained; smaller ones with mixed precision."""


@dataclass(frozen=True)
class Item:
    """One configuration of the agenda.

    Attributes:
        profiled: One step goes under the memory profiler too.
        evaluated: Its evaluation pass is traced and measured too.
        steps: To time, after the warm-up.
    """

    strategy: StrategyConfig
    execution: ExecutionPlan
    seq_length: int
    profiled: bool = False
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
    """

    items: tuple[Item, ...]
    replay_s: float
    call_s: float
    warmup_steps: int = 2
    limit_s: float = FULL_LIMIT_S


def make_agenda(model: ModelSpec, device: DeviceProfile, *, quick: bool) -> Agenda:
    """Choose configurations for a model on a device.

    A quick agenda measures LoRA, full and head-only fine-tuning and QLoRA at up to three shapes; a full one adds more
    methods and shapes, checkpointing and the other precision.
    """
    shapes = feasible_shapes(model, device, QUICK_STEP_S if quick else FULL_STEP_S)
    three = (shapes[0], shapes[len(shapes) // 2], shapes[-1])
    usual = _usual_knobs(model, device)
    if quick:
        items = _with_steps(_quick_items(model, three, usual), model, device)
        return Agenda(items, QUICK_REPLAY_S, QUICK_CALL_S, limit_s=QUICK_LIMIT_S)
    return Agenda(_with_steps(_full_items(model, device, three, usual), model, device), FULL_REPLAY_S, FULL_CALL_S)


def _with_steps(items: list[Item | None], model: ModelSpec, device: DeviceProfile) -> tuple[Item, ...]:
    """Those that apply to the model, each once and with as many steps as its length deserves.

    Where few shapes are feasible, the list names some configurations several times.
    """
    once: dict[tuple[str, ExecutionPlan], Item] = {}
    left_out = () if _states_fit(model, device) else STATEFUL
    for item in items:
        if item is None or item.strategy.method in left_out:
            continue
        key = (item.strategy.method, item.execution)
        twin = once.get(key, item)
        short = step_estimate_s(model, device, item.execution.micro_batch_size, item.seq_length) < SHORT_STEP_S
        once[key] = dataclasses.replace(
            item,
            profiled=item.profiled or twin.profiled,
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
    return {"dtype": "bfloat16"} if model.total_parameters >= LARGE_PARAMETERS else {"amp": "bf16"}


def _quick_items(model: ModelSpec, shapes: tuple[tuple[int, int], ...], usual: dict[str, object]) -> list[Item | None]:
    small, middle, large = shapes
    return [
        _item(model, "lora", large, usual, profiled=True, evaluated=True),
        _item(model, "full", middle, usual, profiled=True),
        _item(model, "head", middle, usual, profiled=True, evaluated=True),
        _item(model, "qlora", middle, usual),
        _item(model, "lora", small, usual, evaluated=True),
    ]


def _full_items(
    model: ModelSpec, device: DeviceProfile, shapes: tuple[tuple[int, int], ...], usual: dict[str, object]
) -> list[Item | None]:
    small, middle, large = shapes
    grid = [
        ("full", small), ("lora", large), ("head", middle), ("partial", middle), ("full", middle), ("ia3", middle),
        ("lora", small), ("qlora", middle), ("lora", middle), ("full", large), ("head", large), ("qlora", small),
        ("partial", large), ("high_rank_lora", middle), ("hira", middle), ("sparse_lora", small),
    ]  # fmt: skip
    items = [
        _item(model, method, shape, usual, profiled=index % 2 == 0 and shape != large, evaluated=index < 3)
        for index, (method, shape) in enumerate(grid)
    ]
    longest = feasible_shapes(model, device, LONGEST_STEP_S)[-1]
    other: dict[str, object] = {} if {"amp", "dtype"} & usual.keys() else {**usual, "amp": "bf16"}
    return [
        *items,
        _item(model, "lora", longest, usual) if longest != large else None,
        _item(model, "lora", middle, {**usual, "gradient_checkpointing": True}),
        _item(model, "full", small, {**usual, "gradient_checkpointing": True}, profiled=True),
        _item(model, "full", middle, other),
        _item(model, "lora", small, other),
    ]


def feasible_shapes(model: ModelSpec, device: DeviceProfile, step_s: float) -> list[tuple[int, int]]:
    """Shapes whose full fine-tuning step is estimated to stay under ``step_s`` and in memory; at least the smallest
    one.
    """
    limit, most_tokens = model.max_positions or 1 << 30, _most_tokens(model, device)
    shapes = [
        (rows, length)
        for rows, length in SHAPES
        if length <= limit and rows * length <= most_tokens and step_estimate_s(model, device, rows, length) <= step_s
    ]
    return sorted(shapes, key=lambda shape: shape[0] * shape[1]) or [SHAPES[0]]


def step_estimate_s(model: ModelSpec, device: DeviceProfile, rows: int, length: int) -> float:
    """Rough time of a full fine-tuning step, before anything was measured.

    6 FLOPs per parameter and token (Kaplan et al. 2020; embeddings left out because they are looked up), plus the
    traffic of activations.
    """
    rate = device.flops_per_s["float32"].value if "float32" in device.flops_per_s else REFERENCE_FLOPS_PER_S
    bandwidth = device.bytes_per_s["memory"].value if "memory" in device.bytes_per_s else REFERENCE_BYTES_PER_S
    embedding = model.vocab_size * model.hidden_size
    looked_up = embedding if model.task == "sequence-classification" else 0
    computed = max(model.total_parameters - looked_up, 1)
    layer_bytes = 4 * model.hidden_size * model.num_hidden_layers
    passes = ACTIVATION_PASSES + SCORE_PASSES_PER_TOKEN * length
    token_s = 6 * computed / rate + layer_bytes * passes / bandwidth
    return STEP_OVER_ESTIMATE * token_s * rows * length


def _most_tokens(model: ModelSpec, device: DeviceProfile) -> float:
    """Tokens of a micro-batch whose activations are estimated to fit beside full fine-tuning's states; beside frozen
    weights where these states do not fit.
    """
    return _tokens_beside(STATES_PER_PARAMETER if _states_fit(model, device) else 1, model, device)


def _states_fit(model: ModelSpec, device: DeviceProfile) -> bool:
    """Whether full fine-tuning of the smallest shape fits."""
    rows, length = SHAPES[0]
    return _tokens_beside(STATES_PER_PARAMETER, model, device) >= rows * length


def _tokens_beside(states: int, model: ModelSpec, device: DeviceProfile) -> float:
    free = device.memory_bytes if device.available_bytes is None else device.available_bytes
    item_bytes = ITEM_BYTES[str(_usual_knobs(model, device).get("dtype", "float32"))]
    room = MEMORY_SHARE * free - states * item_bytes * model.total_parameters
    logits = 4 * LOGIT_COPIES * model.vocab_size if model.task != "sequence-classification" else 0
    return room / (KEPT_ITEMS_PER_VALUE * item_bytes * model.hidden_size * model.num_hidden_layers + logits)


def _item(
    model: ModelSpec,
    method: str,
    shape: tuple[int, int],
    knobs: dict[str, object],
    *,
    profiled: bool = False,
    evaluated: bool = False,
) -> Item | None:
    """An item, or ``None`` when the method does not apply to the model."""
    from advisor.strategies import get_strategy

    strategy = get_strategy(method)
    if strategy.applies_to(model) is not None:
        return None
    execution = dataclasses.replace(ExecutionPlan(shape[0], max_seq_length=shape[1]), **knobs)  # type: ignore[arg-type]
    return Item(strategy.default_config(model), execution, shape[1], profiled, evaluated)
