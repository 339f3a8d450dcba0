"""Which micro-batches steps of a model can be measured with on a device: short enough, and small enough for memory."""

from __future__ import annotations

import math
from collections.abc import Collection

from advisor.core.device import DeviceProfile
from advisor.core.model import ModelSpec
from advisor.core.plan import Dtype
from advisor.costmodel.trace.ops import ITEM_BYTES

Shape = tuple[int, int]
"""Micro-batch size and padded length."""
SHAPES: tuple[Shape, ...] = (
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
rates: MiniLM's full step of 8 x 128 tokens took 0.67 s on two cores, the estimate without this factor says 0.37 s."""
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


def tokens(shape: Shape) -> int:
    """Of a micro-batch."""
    return shape[0] * shape[1]


def known_nearby(shapes: tuple[Shape, ...], known: Collection[Shape]) -> tuple[Shape, ...]:
    """Measured shapes in place of ones of up to twice or half as many tokens, where each has one of its own: a probe
    that comes out a little faster than the last must not lead to measuring everything anew.
    """

    def distance(shape: Shape, other: Shape) -> float:
        return abs(math.log2(tokens(shape) / tokens(other)))

    if not known:
        return shapes
    nearest = tuple(min(sorted(known), key=lambda other: distance(shape, other)) for shape in shapes)
    close = all(distance(shape, other) <= 1 for shape, other in zip(shapes, nearest, strict=True))
    return nearest if close and len(set(nearest)) == len(set(shapes)) else shapes


def feasible_shapes(model: ModelSpec, device: DeviceProfile, step_s: float) -> list[Shape]:
    """Shapes whose full fine-tuning step is estimated to stay under ``step_s`` and in memory; at least the smallest
    one.
    """
    longest, most = model.max_positions or 1 << 30, most_tokens(model, device)
    shapes = [
        (rows, length)
        for rows, length in SHAPES
        if length <= longest and rows * length <= most and step_estimate_s(model, device, rows, length) <= step_s
    ]
    return sorted(shapes, key=tokens) or [SHAPES[0]]


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


def most_tokens(model: ModelSpec, device: DeviceProfile) -> float:
    """Tokens of a micro-batch whose activations are estimated to fit beside full fine-tuning's states; beside frozen
    weights where these states do not fit.
    """
    return _tokens_beside(STATES_PER_PARAMETER if states_fit(model, device) else 1, model, device)


def weights_dtype(model: ModelSpec, device: DeviceProfile) -> Dtype:
    """Of the weights that steps are measured with."""
    large = model.total_parameters >= LARGE_PARAMETERS
    return "bfloat16" if large and device.type != "cpu" and "bfloat16" in device.dtypes else "float32"


def states_fit(model: ModelSpec, device: DeviceProfile) -> bool:
    """Whether full fine-tuning of the smallest shape fits."""
    rows, length = SHAPES[0]
    return _tokens_beside(STATES_PER_PARAMETER, model, device) >= rows * length


def _tokens_beside(states: int, model: ModelSpec, device: DeviceProfile) -> float:
    free = device.memory_bytes if device.available_bytes is None else device.available_bytes
    item_bytes = ITEM_BYTES[weights_dtype(model, device)]
    room = MEMORY_SHARE * free - states * item_bytes * model.total_parameters
    logits = 4 * LOGIT_COPIES * model.vocab_size if model.task != "sequence-classification" else 0
    return room / (KEPT_ITEMS_PER_VALUE * item_bytes * model.hidden_size * model.num_hidden_layers + logits)
