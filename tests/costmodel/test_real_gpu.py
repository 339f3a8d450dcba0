"""What is traced for a GPU is what runs on it: native fake tensors, replayed calls, real steps."""

from __future__ import annotations

import statistics
import subprocess
import sys
from typing import Any

import pytest
import torch

from advisor.calibration.measure import distinct_tasks
from advisor.calibration.plan import decoder, encoder
from advisor.calibration.replay import replay_all
from advisor.core.plan import ExecutionPlan
from advisor.hardware.probe import worker_environment
from advisor.measurement.isolation import isolated
from advisor.measurement.steps import StepRequest, measure_steps
from advisor.strategies import get_strategy
from advisor.tracing.ops import TracedOp
from advisor.tracing.step import TraceRequest, trace_step

pytestmark = pytest.mark.gpu

CASES = (
    (encoder, "lora", ExecutionPlan(8, max_seq_length=64, amp="bf16")),
    (encoder, "full", ExecutionPlan(8, max_seq_length=64)),
    (decoder, "full", ExecutionPlan(4, max_seq_length=64, amp="bf16")),
    (decoder, "lora", ExecutionPlan(4, max_seq_length=64, dtype="bfloat16", gradient_checkpointing=True)),
)
IDS = ("encoder-lora-amp", "encoder-full-float32", "decoder-full-amp", "decoder-lora-checkpointed")

STAND_IN = """
import torch
from tests.costmodel.test_real_gpu import CASES, counted, traced
assert not torch.cuda.is_available()
print([counted(traced(index)) for index in range(len(CASES))])
"""


def traced(index: int) -> list[TracedOp]:
    subject, method, execution = CASES[index]
    spec = subject()
    strategy = get_strategy(method).default_config(spec)
    request = TraceRequest(
        spec, strategy, execution, 64, semantics="cuda", compute_capability=(9, 0), keep_signatures=True
    )
    operators = trace_step(request).recording.operators
    return [
        TracedOp(op.name, op.phase, op.flops, sum(op.read_bytes), sum(op.written_bytes), op.dtype, op.signature)  # type: ignore[arg-type]
        for op in operators
    ]


def counted(operators: list[TracedOp]) -> tuple[int, int]:
    """FLOPs, and how many matrix products and attention kernels there are."""
    return sum(op.flops for op in operators), sum(op.flops > 0 for op in operators)


def test_traces_on_the_gpu_agree_with_those_of_the_stand_in() -> None:
    environment = {**worker_environment(), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", STAND_IN], capture_output=True, text=True, timeout=240, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert str([counted(traced(index)) for index in range(len(CASES))]) == done.stdout.strip()


@pytest.mark.parametrize("index", range(len(CASES)), ids=IDS)
def test_every_traced_call_can_be_replayed(index: int) -> None:
    tasks = distinct_tasks(traced(index))
    events: list[dict[str, Any]] = []
    result = isolated(
        replay_all,
        tasks,
        device="cuda",
        num_threads=None,
        budget_s=120.0,
        per_call_s=0.02,
        on_event=events.append,
        timeout_s=240.0,
    )
    last = next((tasks[e["index"]].name for e in reversed(events) if e["kind"] == "begin"), "nothing")
    assert result.outcome == "completed", f"{result.reason}, in {last}"
    assert [event["reason"] for event in events if event["kind"] == "skipped"] == []
    assert result.value == len(tasks)


@pytest.mark.parametrize("index", range(len(CASES)), ids=IDS)
def test_real_steps_are_timed_and_their_memory_read(index: int) -> None:
    subject, method, execution = CASES[index]
    spec = subject()
    strategy = get_strategy(method).default_config(spec)
    found = measure_steps(
        StepRequest(spec, strategy, execution, 64, mixed_length_steps=4, evaluate=True, device_type="cuda"),
        timeout_s=240,
    )
    assert len(found.step_times_s) == 5
    assert 1e-4 < statistics.median(found.step_times_s) < 1.0
    assert found.evaluation is not None
    assert (found.reserved_peak_bytes or 0) >= (found.allocated_peak_bytes or 0) > 0
    assert not torch.cuda.is_initialized() or torch.cuda.memory_allocated() < 2**30, "the steps ran elsewhere"
