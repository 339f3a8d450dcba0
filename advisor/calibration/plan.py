"""What to trace, replay and measure, sized to the model and the machine."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advisor.core.device import DeviceProfile
from advisor.core.model import ModelSpec
from advisor.core.plan import Dtype, ExecutionPlan
from advisor.core.strategy import StrategyConfig
from advisor.hardware.backends import backend_of
from advisor.strategies import get_strategy
from advisor.tracing.ops import ITEM_BYTES
from advisor.training.tasks.causal_lm import CausalLM
from advisor.training.tasks.sequence_classification import SequenceClassification

CASES_FILE = Path(__file__).with_name("benchmark_cases.json")
"""What is measured, in this order: methods at small, middle, large and (where it is longer) the longest shape."""
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
NOISY = 0.15
"""Repeat noise above which a point is measured again when there is a chance to: it moves a predicted step by more than
its own 90 % interval should."""
MOST_PATIENCE = 16.0
"""Beyond this a time-out would no longer end what is stuck within an hour."""


@dataclass(frozen=True)
class BenchmarkCase:
    """One configuration to measure.

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
class BenchmarkPlan:
    """Everything one calibration does.

    Attributes:
        cases: The most useful first.
        replay_s, call_s: Wall clock for all replays and for one.
        warmup_steps: Of every configuration.
        limit_s: No configuration is begun later than this.
        end_s: No call is replayed later than this.
    """

    cases: tuple[BenchmarkCase, ...]
    replay_s: float
    call_s: float
    warmup_steps: int = 2
    limit_s: float = FULL_LIMIT_S
    end_s: float = FULL_END_S


def make_plan(
    model: ModelSpec, device: DeviceProfile, *, quick: bool, measured: Sequence[BatchShape] = ()
) -> BenchmarkPlan:
    """Choose configurations for a model on a device.

    A quick plan measures LoRA, full and head-only fine-tuning and QLoRA at up to three shapes; a full one adds more
    methods and shapes, checkpointing and the other precision.
    """
    shapes = feasible_shapes(model, device, QUICK_STEP_S if quick else FULL_STEP_S)
    measured = [shape for shape in measured if tokens(shape) <= most_tokens(model, device)]
    several = {shape for shape in measured if measured.count(shape) > 1}  # the longest is measured with one method
    three = measured_nearby((shapes[0], shapes[len(shapes) // 2], shapes[-1]), several)
    usual = _usual_knobs(model, device)
    named = dict(zip(("small", "middle", "large"), three, strict=True))
    if quick:
        cases = _with_steps(_cases("quick", model, named, usual), model, device)
        return BenchmarkPlan(cases, QUICK_REPLAY_S, QUICK_CALL_S, limit_s=QUICK_LIMIT_S, end_s=QUICK_END_S)
    longest = feasible_shapes(model, device, LONGEST_STEP_S)[-1]
    (longest,) = measured_nearby((longest,), [shape for shape in measured if tokens(shape) > tokens(three[-1])])
    named |= {"longest": longest} if tokens(longest) > tokens(three[-1]) else {}
    cases = _with_steps(_cases("complete", model, named, usual), model, device)
    return BenchmarkPlan(cases, FULL_REPLAY_S, FULL_CALL_S)


def _with_steps(cases: Iterator[BenchmarkCase], model: ModelSpec, device: DeviceProfile) -> tuple[BenchmarkCase, ...]:
    """Those whose states fit, each once and with as many steps as its length deserves.

    Where few shapes are feasible, the list names some configurations several times.
    """
    once: dict[tuple[str, ExecutionPlan], BenchmarkCase] = {}
    fit = states_fit(model, device)
    for case in cases:
        if get_strategy(case.strategy.method).stateful and not fit:
            continue
        key = (case.strategy.method, case.execution)
        twin = once.get(key, case)
        short = step_estimate_s(model, device, case.execution.micro_batch_size, case.seq_length) < SHORT_STEP_S
        once[key] = dataclasses.replace(
            case,
            evaluated=case.evaluated or twin.evaluated,
            steps=SHORT_STEPS if short else STEPS,
        )
    return tuple(once.values())


def _usual_knobs(model: ModelSpec, device: DeviceProfile) -> dict[str, Any]:
    """What plans for this device mostly use: float32 and its best number of threads on a CPU, bfloat16 where there are
    tensor cores for it.
    """
    setups = backend_of(device).setups
    threads = {"num_threads": device.num_threads} if setups.num_threads else {}
    if not setups.half_precision or "bfloat16" not in device.dtypes:
        return threads
    return {"dtype": "bfloat16"} if weights_dtype(model, device) == "bfloat16" else {"amp": "bf16"}


def _cases(
    name: str, model: ModelSpec, shapes: Mapping[str, BatchShape], usual: dict[str, Any]
) -> Iterator[BenchmarkCase]:
    """The cases of a list in ``CASES_FILE`` whose method applies to the model and whose shape is feasible."""
    other = {} if {"amp", "dtype"} & usual.keys() else {**usual, "amp": "bf16"}
    for case in json.loads(CASES_FILE.read_text(encoding="utf-8"))[name]:
        strategy, shape = get_strategy(case["method"]), shapes.get(case["shape"])
        if shape is None or strategy.applies_to(model) is not None:
            continue
        switches = {**(other if case.get("other_precision") else usual), **case.get("execution", {})}
        execution = dataclasses.replace(ExecutionPlan(shape[0], max_seq_length=shape[1]), **switches)
        yield BenchmarkCase(strategy.default_config(model), execution, shape[1], case.get("evaluated", False))


# --------------------
# Which micro-batches steps of a model can be measured with on a device: short enough, and small enough for memory.

BatchShape = tuple[int, int]
"""Micro-batch size and padded length."""
CANDIDATE_SHAPES: tuple[BatchShape, ...] = (
    (2, 16), (4, 32), (8, 32), (8, 64), (16, 64), (16, 128), (32, 128), (16, 256), (16, 512), (8, 1024), (8, 2048),
    (16, 2048), (16, 4096),
)  # fmt: skip
"""Candidates; the largest whose step stays short and small enough are taken."""
REFERENCE_FLOPS_PER_S, REFERENCE_BYTES_PER_S = 5e10, 5e9
"""Assumed before anything was measured, only to choose shapes: a slow server core or two."""
ACTIVATION_PASSES, SCORE_PASSES_PER_TOKEN = 200, 10 / 32
"""How often a step reads or writes a tensor of one layer's activations, and how much more of it per token of length
because of attention scores (a head every 32 values). Traced on MiniLM: 250 to 260 at 64 tokens, 380 to 400 at 256."""
STEP_OVER_ESTIMATE = 2.0
"""Random numbers, small products and the host make a step about twice as long as products and traffic at their best
rates: MiniLM's full step of 8 x 128 tokens took 0.67 s on two cores, the estimate without this factor was 0.37 s."""
KEPT_ITEMS_PER_VALUE = 17
"""Activations that one layer keeps for the backward pass, per token and hidden value (Korthikanti et al. 2022, equation
1: 34 bytes in half precision, without the attention scores)."""
LOGIT_COPIES = 4
"""Of a language model's logits in float32: themselves, their up-cast, the log-softmax and its gradient."""
STATES_PER_PARAMETER = 4
"""Weights, gradients and two optimizer states of full fine-tuning, all of the weights' data type."""
MEMORY_SHARE = 0.5
"""Of the free memory that a calibrating step may be estimated to take: the estimate is rough."""
LARGE_PARAMETERS = 10**9
"""Models from here on are calibrated with bfloat16 weights, as they are trained; smaller ones with mixed precision."""


def tokens(shape: BatchShape) -> int:
    """Of a micro-batch."""
    return shape[0] * shape[1]


def measured_nearby(shapes: tuple[BatchShape, ...], measured: Collection[BatchShape]) -> tuple[BatchShape, ...]:
    """Measured shapes in place of ones of up to twice or half as many tokens, where each has one of its own: a probe
    that comes out a little faster than the last must not lead to measuring everything anew.
    """

    def distance(shape: BatchShape, other: BatchShape) -> float:
        return abs(math.log2(tokens(shape) / tokens(other)))

    if not measured:
        return shapes
    nearest = tuple(min(sorted(measured), key=lambda other: distance(shape, other)) for shape in shapes)
    close = all(distance(shape, other) <= 1 for shape, other in zip(shapes, nearest, strict=True))
    return nearest if close and len(set(nearest)) == len(set(shapes)) else shapes


def feasible_shapes(model: ModelSpec, device: DeviceProfile, step_s: float) -> list[BatchShape]:
    """Shapes whose full fine-tuning step is estimated to stay under ``step_s`` and in memory; at least the smallest
    one.
    """
    longest, most = model.max_positions or 1 << 30, most_tokens(model, device)
    shapes = [
        (rows, length)
        for rows, length in CANDIDATE_SHAPES
        if length <= longest and rows * length <= most and step_estimate_s(model, device, rows, length) <= step_s
    ]
    return sorted(shapes, key=tokens) or [CANDIDATE_SHAPES[0]]


def step_estimate_s(model: ModelSpec, device: DeviceProfile, rows: int, length: int) -> float:
    """Rough time of a full fine-tuning step, before anything was measured.

    6 FLOPs per parameter and token (Kaplan et al. 2020; embeddings left out because they are looked up), plus the
    traffic of activations.
    """
    rate = device.flops_per_s["float32"].value if "float32" in device.flops_per_s else REFERENCE_FLOPS_PER_S
    bandwidth = device.bytes_per_s["memory"].value if "memory" in device.bytes_per_s else REFERENCE_BYTES_PER_S
    embedding = model.vocab_size * model.hidden_size
    looked_up = 0 if model.traits.projects_to_vocabulary else embedding
    computed = max(model.total_parameters - looked_up, 1)
    layer_bytes = 4 * model.hidden_size * model.num_hidden_layers
    passes = ACTIVATION_PASSES + SCORE_PASSES_PER_TOKEN * length
    token_s = 6 * computed / rate + layer_bytes * passes / bandwidth
    return STEP_OVER_ESTIMATE * token_s * rows * length


def most_tokens(model: ModelSpec, device: DeviceProfile) -> float:
    """Tokens of a micro-batch whose activations are estimated to fit beside full fine-tuning's states; beside frozen
    weights where these states do not fit.
    """
    return _tokens_beside(STATES_PER_PARAMETER if states_fit(model, device) else 1, model, device)


def weights_dtype(model: ModelSpec, device: DeviceProfile) -> Dtype:
    """Of the weights that steps are measured with."""
    large = model.total_parameters >= LARGE_PARAMETERS
    return (
        "bfloat16" if large and backend_of(device).setups.half_precision and "bfloat16" in device.dtypes else "float32"
    )


def states_fit(model: ModelSpec, device: DeviceProfile) -> bool:
    """Whether full fine-tuning of the smallest shape fits."""
    rows, length = CANDIDATE_SHAPES[0]
    return _tokens_beside(STATES_PER_PARAMETER, model, device) >= rows * length


def _tokens_beside(states: int, model: ModelSpec, device: DeviceProfile) -> float:
    free = device.memory_bytes if device.available_bytes is None else device.available_bytes
    item_bytes = ITEM_BYTES[weights_dtype(model, device)]
    room = MEMORY_SHARE * free - states * item_bytes * model.total_parameters
    logits = 4 * LOGIT_COPIES * model.vocab_size if model.traits.projects_to_vocabulary else 0
    return room / (KEPT_ITEMS_PER_VALUE * item_bytes * model.hidden_size * model.num_hidden_layers + logits)


def timeout_scale(device: DeviceProfile, core_quota: float | None = None) -> float:
    """How much longer than usual a measuring process may take here, at least 1."""
    if core_quota is None:
        from advisor.hardware.host import cpu_quota

        core_quota, _ = cpu_quota()
    slowness = [1.0]
    if core_quota is not None and core_quota > 0:
        slowness.append(1 / core_quota)
    rate = device.flops_per_s.get("float32")
    if rate is not None and rate.value > 0:
        slowness.append(REFERENCE_FLOPS_PER_S / rate.value)
    return min(max(slowness), MOST_PATIENCE)


# --------------------
# What is calibrated when no model is named.

LARGE_DECODER_BYTES = 12 * 2**30
"""Free memory from which on the large decoder is worth a try: its weights, gradients and moments in bfloat16 are 9.2
GiB; with less its adapters still train in 4 GiB, and the plan leaves out what does not fit."""


def default_models(device: DeviceProfile, *, quick: bool) -> tuple[tuple[ModelSpec, bool], ...]:
    """Models to calibrate with, and whether a quick plan is enough.

    An encoder, and where there is time a decoder: together they have the operators of nearly all transformers. A few
    steps of a larger encoder then show what happens when weights and optimizer states leave the cache, and on a GPU
    those of a decoder with a billion parameters what happens when operators take longer than launching them.
    """
    if quick:
        return ((encoder(), True),)
    subjects = ((encoder(), False), (decoder(), False), (large_encoder(), True))
    free = device.memory_bytes if device.available_bytes is None else device.available_bytes
    if backend_of(device).setups.half_precision and "bfloat16" in device.dtypes and free >= LARGE_DECODER_BYTES:
        return (*subjects, (large_decoder(), True))
    return subjects


def encoder() -> ModelSpec:
    """An encoder of MiniLM-L6's size without weights: small, and with the operators that every transformer has."""
    return _bert("MiniLM-size encoder", 22_713_986, hidden_size=384, num_hidden_layers=6)


def large_encoder() -> ModelSpec:
    """An encoder of BERT-base's size."""
    return _bert("BERT-base-size encoder", 109_483_778, hidden_size=768, num_hidden_layers=12)


def _bert(source: str, total_parameters: int, *, hidden_size: int, num_hidden_layers: int) -> ModelSpec:
    from transformers import BertConfig

    config = BertConfig(
        hidden_size=hidden_size,
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=12,
        intermediate_size=4 * hidden_size,
    )
    values = {**config.to_dict(), "architectures": ["BertForSequenceClassification"]}
    return ModelSpec(
        source=source,
        kind="config",
        task=SequenceClassification.traits.name,
        config=values,
        model_type="bert",
        total_parameters=total_parameters,
        hidden_size=hidden_size,
        num_hidden_layers=num_hidden_layers,
        vocab_size=30522,
        max_positions=512,
    )


def decoder() -> ModelSpec:
    """A decoder of Llama's kind, eight layers of 512, with a vocabulary of 32,000."""
    return _llama(
        "small decoder",
        58_466_816,
        hidden_size=512,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=8,
        intermediate_size=1408,
        vocab_size=32000,
        max_position_embeddings=2048,
    )


def large_decoder() -> ModelSpec:
    """A decoder of Llama-3.2-1B's shape."""
    return _llama(
        "decoder of a billion parameters",
        1_235_814_400,
        hidden_size=2048,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        intermediate_size=8192,
        vocab_size=128256,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    )


def _llama(source: str, total_parameters: int, **shape: Any) -> ModelSpec:
    from transformers import LlamaConfig

    config = LlamaConfig(**shape)
    values = {**config.to_dict(), "architectures": ["LlamaForCausalLM"]}
    return ModelSpec(
        source=source,
        kind="config",
        task=CausalLM.traits.name,
        config=values,
        model_type="llama",
        total_parameters=total_parameters,
        hidden_size=shape["hidden_size"],
        num_hidden_layers=shape["num_hidden_layers"],
        vocab_size=shape["vocab_size"],
        max_positions=shape["max_position_embeddings"],
    )
