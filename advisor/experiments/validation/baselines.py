"""Step times as two well-known rules of thumb tell them, beside which a prediction has to stand.

Both are plain: no efficiency, no host time. The report shows them as they are, and once more with the one
factor that suits the measurements best, which no user could know beforehand.
"""

from __future__ import annotations

from collections.abc import Sequence

from advisor.core.device import DeviceProfile
from advisor.core.model import ModelSpec
from advisor.experiments.validation.records import Record, TracedWork
from advisor.strategies import get_strategy
from advisor.tracing.ops import TracedOp, op_class

FORWARD_FLOPS, INPUT_GRADIENT_FLOPS, WEIGHT_GRADIENT_FLOPS = 2, 2, 2
"""Per computed parameter and token: 6 N D together (Kaplan et al. 2020, section 2.1)."""
AMP_DTYPE = {"bf16": "bfloat16", "fp16": "float16"}


def step_work(
    operators: Sequence[TracedOp], gradient_accumulation_steps: int, device: DeviceProfile, model: ModelSpec
) -> TracedWork:
    """The work of one optimizer step.

    Args:
        operators: Of the whole trace.
        gradient_accumulation_steps: Micro-batches per step.
        device: Whose rates the roofline takes.
        model: Whose step it is.
    """
    times = _times_per_step(operators, gradient_accumulation_steps)
    step = [(op, op.count * times[op.phase]) for op in operators if times.get(op.phase)]
    flops: dict[str, int] = {}
    for op, count in step:
        if op.flops:
            flops[op.dtype] = flops.get(op.dtype, 0) + op.flops * count
    known = bool(device.flops_per_s) and "memory" in device.bytes_per_s
    return TracedWork(
        operators=sum(count for _, count in step),
        flops=flops,
        moved_bytes=sum(op.moved_bytes * count for op, count in step if op_class(op) != "allocation"),
        computed_parameters=computed_parameters(model),
        roofline_s=sum(_roofline_s(op, device) * count for op, count in step) if known else None,
    )


def computed_parameters(model: ModelSpec) -> int:
    """Parameters that take part in matrix products: all but the table of input embeddings, unless it is the output
    projection as well.
    """
    is_output = model.traits.projects_to_vocabulary and model.config.get("tie_word_embeddings", True)
    return model.total_parameters - (0 if is_output else model.vocab_size * model.hidden_size)


def rule_of_thumb_s(record: Record, device: DeviceProfile) -> float | None:
    """``6 x parameters x tokens / peak``: 4 x where gradients pass through frozen weights (adapters), 2 x where none
    passes through the body (a head alone), and 2 x more with checkpointing, for the second forward pass (Korthikanti et
    al. 2022).
    """
    work = record.predicted.work if record.predicted is not None else None
    peak = peak_flops_per_s(device, AMP_DTYPE.get(record.execution.get("amp", ""), record.execution.get("dtype")))
    if work is None or peak is None:
        return None
    factor = FORWARD_FLOPS
    method = get_strategy(record.method)
    if method.stateful or method.backpropagates_to_inputs:
        factor += INPUT_GRADIENT_FLOPS
        factor += WEIGHT_GRADIENT_FLOPS if method.stateful else 0
        factor += FORWARD_FLOPS if record.execution.get("gradient_checkpointing") else 0
    tokens = record.rows * record.length * record.execution.get("gradient_accumulation_steps", 1)
    return factor * work.computed_parameters * tokens / peak


def peak_flops_per_s(device: DeviceProfile, dtype: str | None) -> float | None:
    """The device's rate for a data type, float32 where it lists none."""
    rate = device.flops_per_s.get(dtype or "float32") or device.flops_per_s.get("float32")
    return rate.value if rate is not None else None


def _roofline_s(op: TracedOp, device: DeviceProfile) -> float:
    """The slower of arithmetic and traffic (Williams et al. 2009)."""
    if op_class(op) == "allocation":
        return 0.0
    peak = peak_flops_per_s(device, op.dtype)
    arithmetic_s = op.flops / peak if peak else 0.0
    return max(arithmetic_s, op.moved_bytes / device.bytes_per_s["memory"].value)


def _times_per_step(operators: Sequence[TracedOp], gradient_accumulation_steps: int) -> dict[str, int]:
    """How often a step runs the operators of each phase; with accumulation the first micro-batch has its own."""
    has_first = any(op.phase == "first_forward" for op in operators)
    further = gradient_accumulation_steps - (1 if has_first else 0)
    return {"first_forward": 1, "first_backward": 1, "forward": further, "backward": further, "optimizer": 1}
