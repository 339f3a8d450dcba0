"""The traced allocated peak is that of the real, unpatched Trainer step, seen by torch.profiler's memory events."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from advisor.core.model import Task
from advisor.core.plan import ExecutionPlan
from advisor.costmodel.trace.step import TraceRequest, trace_step
from advisor.measurement.steps import profile_step_memory
from advisor.strategies import get_strategy
from tests.costmodel.tiny import tiny_spec

LENGTH = 64
TOLERANCE = 1e-3
OPTIMIZERS = ("adamw_torch", "sgd", "adafactor", "adamw_bnb_8bit")


@dataclass(frozen=True)
class Case:
    """A model, a method, and what differs from the default execution (or from the method's default clipping)."""

    model: str
    task: Task
    method: str
    knobs: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        knobs = "-".join(f"{key}={value}" for key, value in self.knobs.items())
        return "-".join(part for part in (self.model, self.task, self.method, knobs) if part)


CLASSIFY: Task = "sequence-classification"
LM: Task = "causal-lm"
SAVED = {"gradient_checkpointing": True}
REENTRANT = {"gradient_checkpointing": True, "reentrant_checkpointing": True}
EAGER = {"attn_implementation": "eager"}
BF16_WEIGHTS = {"dtype": "bfloat16"}
BF16_AMP = {"amp": "bf16"}
TWICE = {"gradient_accumulation_steps": 2}
KEPT = {"zero_grad_set_to_none": False}
HELD = {"hold_outputs": True}
FUSED = {"loss": "fused-linear"}
UPCAST = {**BF16_WEIGHTS, "kbit_upcast": True}
METHODS = ("full", "partial", "head", "lora", "high_rank_lora", "hira", "sparse_lora", "qlora", "ia3")


def cases(model: str, task: Task, methods: tuple[str, ...], *knobs: dict[str, Any]) -> list[Case]:
    return [Case(model, task, method, knob) for knob in knobs for method in methods]


def optimized(optim: str, **more: Any) -> dict[str, Any]:
    return {"optim": optim, **more}


CASES = [
    *cases("bert", CLASSIFY, METHODS, {}),
    *cases("bert", CLASSIFY, ("full", "partial", "lora", "qlora"), SAVED, REENTRANT),
    *cases("bert", CLASSIFY, ("head",), REENTRANT),
    *cases("bert", CLASSIFY, ("full", "lora"), EAGER, BF16_AMP),
    *cases("bert", CLASSIFY, ("full",), TWICE, KEPT, {**KEPT, **TWICE}, HELD, {"max_grad_norm": 0.0}),
    *cases("bert", CLASSIFY, ("lora",), {"padded": False}),
    *cases("bert", "masked-lm", ("full",), {}),
    *cases("distilbert", CLASSIFY, ("full",), {}),
    *cases("distilbert", CLASSIFY, ("lora",), SAVED),
    *cases("roberta", "masked-lm", ("lora",), {}),
    *cases("deberta-v2", CLASSIFY, ("lora",), EAGER),
    *cases("deberta-v2", CLASSIFY, ("full",), {**EAGER, **SAVED}),
    *cases("gpt2", LM, ("lora",), {}),
    *cases("llama", CLASSIFY, ("lora",), {}),
    *cases("llama", LM, ("full", "lora", "qlora", "ia3"), {}),
    *cases("llama", LM, ("lora",), SAVED, REENTRANT),
    *cases("llama", LM, ("full",), EAGER, {**BF16_WEIGHTS, **TWICE}, {**HELD, **BF16_AMP}, {**REENTRANT, **BF16_AMP}),
    *cases("llama", LM, ("qlora",), BF16_WEIGHTS, UPCAST, {**UPCAST, **REENTRANT}),
    *cases("llama", LM, ("full", "lora"), FUSED, {**FUSED, **BF16_AMP}),
    *cases("llama", LM, ("full",), {**FUSED, **BF16_WEIGHTS}),
    *cases("gpt2", LM, ("full",), {**FUSED, **TWICE}),
    # One row: the update itself is the peak.
    *cases("bert", CLASSIFY, ("full",), *(optimized(name, micro_batch_size=1) for name in OPTIMIZERS)),
    *cases("llama", LM, ("full",), optimized("adamw_bnb_8bit", micro_batch_size=1, **BF16_WEIGHTS)),
    *cases("bert", CLASSIFY, ("lora", "qlora"), optimized("lorafa")),
    *cases("llama", LM, ("lora",), optimized("lorafa"), optimized("adafactor"), optimized("sgd")),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_traced_peak_is_the_profiled_peak(case: Case, tmp_path: Path) -> None:
    spec = tiny_spec(case.model, case.task, tmp_path)
    strategy = get_strategy(case.method).default_config(spec)
    knobs = dict(case.knobs)
    strategy = replace(strategy, max_grad_norm=knobs.pop("max_grad_norm", strategy.max_grad_norm))
    execution = ExecutionPlan(**{"micro_batch_size": 8, "max_seq_length": LENGTH, **knobs})
    trace = trace_step(TraceRequest(spec, strategy, execution, LENGTH, evaluation=False))
    sizes = np.array([storage.size_bytes for storage in trace.recording.storages])
    events = np.array([(sign, storage) for sign, storage, _ in trace.recording.events])
    traced_bytes = int((events[:, 0] * sizes[events[:, 1]]).cumsum().max())

    profiled = profile_step_memory(spec, strategy, execution, LENGTH)

    assert traced_bytes == pytest.approx(profiled.peak_bytes, rel=TOLERANCE)


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 60
    assert len({str(case) for case in CASES}) == len(CASES)
    assert {case.method for case in CASES} == set(METHODS)
