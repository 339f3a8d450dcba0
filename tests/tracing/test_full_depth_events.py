"""The log that is synthesised from two shallow depths is the log that a full trace records, event for event."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from advisor.core.plan import ExecutionPlan
from advisor.costmodel.memory.caching_allocator import CachingAllocator
from advisor.costmodel.memory.replay import schedule
from advisor.strategies import get_strategy
from advisor.tracing.full_depth import FullDepthTrace, phase_peaks
from advisor.tracing.full_depth_events import MisalignedError, deepen
from advisor.tracing.step import TraceRequest, trace_step
from advisor.tracing.symbolic import TraceShape
from advisor.tracing.symbolic_trace import KINDS, EventLog, SymbolicTrace, canonical_events, symbolic_trace
from tests.tracing.tiny import tiny_spec

LAYERS = 7
TASKS = {"bert": "sequence-classification", "distilbert": "sequence-classification"}
CASES = [
    ("bert", "full", {"optim": "adamw_torch", "amp": "bf16"}),
    ("bert", "partial", {"amp": "bf16"}),
    ("gpt2", "full", {"amp": "bf16", "gradient_accumulation_steps": 2}),
    ("llama", "qlora", {"gradient_checkpointing": True, "dtype": "bfloat16", "padded": False}),
]
MORE_CASES = [
    ("bert", "lora", {"gradient_checkpointing": True}),
    ("distilbert", "full", {"gradient_checkpointing": True, "reentrant_checkpointing": True}),
    ("distilbert", "head", {}),
    ("gpt2", "lora", {"optim": "adafactor"}),
    ("gpt2", "partial", {"gradient_checkpointing": True}),
    ("llama", "full", {"gradient_checkpointing": True, "dtype": "bfloat16", "padded": False}),
    ("llama", "lora", {"gradient_accumulation_steps": 2, "optim": "sgd"}),
    ("llama", "full", {"hold_outputs": True, "zero_grad_set_to_none": False}),
    ("llama", "lora", {"loss": "fused-linear", "dtype": "bfloat16"}),
]


def request(folder: Path, name: str, method: str, **knobs: object) -> TraceRequest:
    spec = tiny_spec(name, TASKS.get(name, "causal-lm"), folder)  # type: ignore[arg-type]
    execution = ExecutionPlan(micro_batch_size=4, **knobs)  # type: ignore[arg-type]
    strategy = get_strategy(method).default_config(spec)
    return TraceRequest(spec, strategy, execution, 32, semantics="cuda", compute_capability=(8, 0))


def traced(asked: TraceRequest, layers: int) -> SymbolicTrace:
    return symbolic_trace(dataclasses.replace(asked, num_hidden_layers=layers))


def direct_log(asked: TraceRequest, layers: int, shape: TraceShape) -> EventLog:
    """What one trace of the whole depth records at one shape, without any formula."""
    rows, length, _ = shape
    execution = dataclasses.replace(asked.execution, micro_batch_size=rows)
    whole = dataclasses.replace(asked, execution=execution, seq_length=length, num_hidden_layers=layers)
    recording = trace_step(whole).recording
    events = np.array(canonical_events(recording), dtype=np.int64)
    sizes = np.array([storage.size_bytes for storage in recording.storages], dtype=np.int64)
    kinds = np.array([KINDS.index(storage.kind) for storage in recording.storages], dtype=np.int64)
    return EventLog(events[:, 0], events[:, 1], events[:, 2], sizes, kinds)


def reserved(log: EventLog) -> int:
    allocator, plan, sizes = CachingAllocator(), schedule(log), log.sizes_bytes.tolist()
    for events in (plan.weights, plan.states, plan.forward, plan.backward, plan.update, plan.evaluation):
        allocator.replay(events, sizes)
    return allocator.peak_reserved_bytes


@pytest.mark.parametrize(
    ("name", "method", "knobs"),
    [*CASES, *(pytest.param(*case, marks=pytest.mark.slow) for case in MORE_CASES)],
)
def test_the_synthesised_log_is_the_traced_one(
    name: str, method: str, knobs: dict[str, object], tmp_path: Path
) -> None:
    asked = request(tmp_path, name, method, **knobs)
    depth = 2 + (asked.strategy.knob("unfrozen_layers") or 0)
    shape = (8, 128, asked.strategy.rank or 1)
    family = FullDepthTrace(traced(asked, depth), traced(asked, depth + 1), LAYERS - depth)
    log, whole = family.events(shape), direct_log(asked, LAYERS, shape)
    assert log is not None
    assert np.array_equal(log.signs, whole.signs)
    assert np.array_equal(log.storages, whole.storages)
    assert np.array_equal(log.phases, whole.phases)
    assert np.array_equal(log.sizes_bytes, whole.sizes_bytes)
    assert np.array_equal(log.kinds, whole.kinds)
    assert phase_peaks(log, round_bytes=512) == phase_peaks(whole, round_bytes=512)
    assert reserved(log) == reserved(whole)


def test_one_layer_more_is_the_deeper_log(tmp_path: Path) -> None:
    asked = request(tmp_path, "bert", "lora")
    shallow, deeper = traced(asked, 2), traced(asked, 3)
    log, shape = deepen(shallow, deeper, 1), (4, 64, 8)
    synthesised, direct = log.events(shallow.events(shape), deeper.events(shape)), deeper.events(shape)
    assert np.array_equal(synthesised.signs, direct.signs)
    assert np.array_equal(synthesised.sizes_bytes, direct.sizes_bytes)


def test_models_that_do_not_repeat_are_refused_and_bounded(tmp_path: Path) -> None:
    """Two depths of different models: no block of the one is missing in the other."""
    shallow = traced(request(tmp_path, "bert", "full"), 2)
    other = traced(request(tmp_path, "distilbert", "full", optim="sgd"), 3)
    with pytest.raises(MisalignedError):
        deepen(shallow, other, 3)
    assert FullDepthTrace(shallow, other, 3).events((4, 64, 1)) is None
