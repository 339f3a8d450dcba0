"""FLOPs that the trace counts for attention kernels, and what it says of causal ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from advisor.core.model import ModelSpec
from advisor.core.plan import ExecutionPlan
from advisor.costmodel.time.device_rates import executed_flops
from advisor.strategies import get_strategy
from advisor.tracing.ops import TracedOp
from advisor.tracing.recorder import RecordedOperator
from advisor.tracing.step import TraceRequest, trace_step
from tests.tracing.tiny import HEADS, LAYERS, WIDTH, tiny_spec

ROWS, LENGTH = 4, 64
PRODUCT = 2 * ROWS * HEADS * LENGTH * LENGTH * (WIDTH // HEADS)
"""One matrix product of (length, width) by (width, length) in every row and head."""


def attention(spec: ModelSpec, **knobs: Any) -> list[RecordedOperator]:
    """Attention kernels of one training step, forward and backward."""
    execution = ExecutionPlan(**{"micro_batch_size": ROWS, "max_seq_length": LENGTH, "padded": False, **knobs})
    strategy = get_strategy("full").default_config(spec)
    trace = trace_step(TraceRequest(spec, strategy, execution, LENGTH, "cuda", (8, 0)))
    return [
        operator
        for operator in trace.recording.operators
        if "attention" in operator.name and operator.phase in ("forward", "backward")
    ]


def flops(operators: list[RecordedOperator], phase: str) -> int:
    return sum(operator.flops for operator in operators if operator.phase == phase)


@pytest.mark.parametrize(
    "knobs",
    [
        {"attn_implementation": "sdpa", "dtype": "bfloat16"},
        {"attn_implementation": "flash_attention_2", "dtype": "bfloat16"},
        {"attn_implementation": "flash_attention_2", "dtype": "bfloat16", "padded": True},
    ],
    ids=["sdpa", "flash-attn", "flash-attn padded"],
)
def test_every_door_to_the_flash_kernel_counts_alike(knobs: dict[str, Any], tmp_path: Path) -> None:
    operators = attention(tiny_spec("llama", "causal-lm", tmp_path), **knobs)
    assert len(operators) == 2 * LAYERS
    assert flops(operators, "forward") == 2 * PRODUCT * LAYERS
    assert flops(operators, "backward") == 5 * PRODUCT * LAYERS
    assert all(operator.name.endswith(".causal") for operator in operators)


def test_an_encoder_sees_both_ways(tmp_path: Path) -> None:
    operators = attention(tiny_spec("bert", "sequence-classification", tmp_path), amp="bf16")
    assert len(operators) == 2 * LAYERS
    assert not any(operator.name.endswith(".causal") for operator in operators)


def test_half_of_a_causal_kernel_is_executed() -> None:
    call = TracedOp("_flash_attention_forward.causal", "forward", 1000, 10, 10, "bfloat16")
    assert (call.base_name, executed_flops(call)) == ("_flash_attention_forward", 500)
    assert executed_flops(TracedOp("_flash_attention_forward.default", "forward", 1000, 10, 10, "bfloat16")) == 1000
