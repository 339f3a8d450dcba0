"""Every execution switch keeps the sweep exact: shallow traces evaluated elsewhere are the whole model traced there."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from advisor.core.model import Task
from advisor.core.plan import ExecutionPlan
from advisor.strategies import get_strategy
from advisor.tracing.step import StepTrace, TraceRequest, trace_step
from advisor.tracing.trace_store import TraceStore
from tests.tracing.tiny import tiny_spec

LM: Task = "causal-lm"
CLASSIFY: Task = "sequence-classification"
LAYERS, BLOCK = 8, 512
BF16: dict[str, Any] = {"dtype": "bfloat16"}
REENTRANT = {"gradient_checkpointing": True, "reentrant_checkpointing": True}
CASES: list[tuple[str, Task, str, dict[str, Any]]] = [
    ("llama", LM, "full", {"loss": "fused-linear", "amp": "bf16"}),
    ("llama", LM, "lora", {"optim": "lorafa", **BF16}),
    ("llama", LM, "qlora", {"kbit_upcast": True, **BF16, **REENTRANT}),
    ("qwen2", LM, "qlora", {"kbit_upcast": True, **BF16}),
    ("llama", LM, "full", {"hold_outputs": True, "amp": "bf16", "zero_grad_set_to_none": False, "optim": "adafactor"}),
    ("bert", CLASSIFY, "full", {"amp": "fp16", "optim": "adamw_bnb_8bit"}),
    ("bert", CLASSIFY, "partial", {"amp": "fp16", "optim": "adamw_torch", **REENTRANT}),
]


def phase_peaks(trace: StepTrace) -> dict[str, int]:
    live_bytes, peaks = 0, Counter[str]()
    for sign, storage, phase in trace.recording.events:
        live_bytes += sign * -(-trace.recording.storages[storage].size_bytes // BLOCK) * BLOCK
        peaks[phase] = max(peaks[phase], live_bytes)
    return dict(peaks)


@pytest.mark.parametrize(("model", "task", "method", "knobs"), CASES, ids=str)
def test_shallow_traces_are_the_whole_model(
    model: str, task: Task, method: str, knobs: dict[str, Any], tmp_path: Path
) -> None:
    spec = tiny_spec(model, task, tmp_path, num_hidden_layers=LAYERS)
    strategy = get_strategy(method).default_config(spec)
    execution = ExecutionPlan(4, **knobs)
    family = TraceStore("cuda", (8, 0), None).get(spec, strategy, execution)
    if strategy.rank is not None:
        strategy = strategy.replaced(rank=16)
    request = TraceRequest(spec, strategy, dataclasses.replace(execution, micro_batch_size=6), 40, "cuda", (8, 0))
    expected = phase_peaks(trace_step(request))
    found = family.peaks((6, 40, strategy.rank or 1), round_bytes=BLOCK)
    assert {name: peak.live_bytes for name, peak in found.items()} == {name: expected[name] for name in found}


def test_eight_bit_states_of_adapters_know_on_which_side_of_the_threshold_the_rank_is(tmp_path: Path) -> None:
    spec = tiny_spec("bert", CLASSIFY, tmp_path)
    store, execution = TraceStore("cuda", (8, 0), None), ExecutionPlan(4, optim="adamw_bnb_8bit", amp="bf16")
    states = {}
    for rank in (31, 32):  # 128 wide: 3,968 and 4,096 elements per factor
        strategy = get_strategy("lora").configured(spec, rank=rank)
        log = store.get(spec, strategy, execution).shallow.events((4, 64, rank))
        trace = trace_step(TraceRequest(spec, strategy, execution, 64, "cuda", (8, 0)))
        exact = [item.size_bytes for item in trace.recording.storages if item.kind == "optimizer_state"]
        states[rank] = sum(exact)
        assert sorted(log.sizes_bytes[: len(trace.recording.storages)]) == sorted(
            item.size_bytes for item in trace.recording.storages
        )
    assert states[32] < states[31] / 2


def test_paged_states_lie_outside_of_the_device(tmp_path: Path) -> None:
    spec = tiny_spec("llama", LM, tmp_path)
    strategy = get_strategy("full").default_config(spec)
    traces = {
        optim: trace_step(TraceRequest(spec, strategy, ExecutionPlan(2, optim=optim, **BF16), 32, "cuda", (8, 0)))
        for optim in ("adamw_bnb_8bit", "paged_adamw_8bit")
    }
    held = {
        optim: sum(item.size_bytes for item in trace.recording.storages if item.kind == "optimizer_state")
        for optim, trace in traces.items()
    }
    # Embedding (float32 moments) and output projection (8-bit moments) are the only ones above 100,000 elements.
    assert held["adamw_bnb_8bit"] - held["paged_adamw_8bit"] == 2000 * 128 * (2 * 4 + 2)


@pytest.mark.parametrize("model", ["mistral", "llama"])
def test_the_backward_pass_of_silu_is_one_kernel_on_cuda(model: str, tmp_path: Path) -> None:
    spec = tiny_spec(model, LM, tmp_path)
    execution = ExecutionPlan(2, gradient_checkpointing=True, **BF16)
    strategy = get_strategy("lora").default_config(spec)
    trace = trace_step(TraceRequest(spec, strategy, execution, 16, "cuda", (8, 0)))
    names = Counter(op.name.split(".")[0] for op in trace.recording.operators if op.phase == "backward")
    assert names["silu_backward"] == spec.num_hidden_layers
    assert names["sigmoid"] == 0
