"""Every architecture by name: the traced step is the real, unpatched Trainer step of a tiny version of it.

One case each in the everyday suite, in turn of another method and another switch; all of them times all of these are
`slow`. Drawn at random: widths, heads, depths, vocabularies, batches, lengths.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from advisor.core.model import ModelSpec, Task
from advisor.core.plan import ExecutionPlan
from advisor.strategies import get_strategy
from advisor.tracing.step import TraceRequest, trace_step
from tests.measurement.profiled import profile_step_memory
from tests.tracing.tiny import BUILDERS, main_task, only_eager, tiny_spec

LENGTH = 64
TOLERANCE = 1e-3
NOT_CHECKPOINTED = ("albert",)
"""transformers implements no gradient checkpointing for it."""

SAVED = {"gradient_checkpointing": True}
AMP = {"amp": "bf16"}
HALF = {"dtype": "bfloat16"}
SGD = {"optim": "sgd"}
FOREACH = {"optim": "adamw_torch"}
EAGER = {"attn_implementation": "eager"}
PACKED = {"padded": False}


@dataclass(frozen=True)
class Case:
    """An architecture, a task, a method, and what differs from the default execution."""

    model: str
    task: Task
    method: str
    knobs: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        knobs = "-".join(f"{key}={value}" for key, value in self.knobs.items())
        return "-".join(part for part in (self.model, self.task, self.method, knobs) if part)


def of(model: str, method: str, knobs: dict[str, Any], task: Task | None = None) -> Case:
    kernel = EAGER if model in only_eager() else {}
    return Case(model, task or main_task(model), method, {**kernel, **knobs})


EVERYDAY = [
    of("xlm-roberta", "qlora", SAVED), of("deberta-xxl", "lora", AMP), of("electra", "full", FOREACH),
    of("albert", "full", {}), of("modernbert", "lora", SAVED), of("modernbert", "full", AMP, "masked-lm"),
    of("gpt2", "full", SAVED), of("gpt_bigcode", "qlora", {}), of("gpt_neox", "lora", AMP),
    of("mistral", "full", PACKED), of("mixtral", "full", {}), of("mixtral", "lora", {**SAVED, **HALF}),
    of("qwen2", "qlora", SAVED), of("qwen3", "lora", EAGER), of("gemma2", "full", SAVED),
    of("gemma3_text", "lora", {**HALF, **SAVED}), of("phi3", "full", SGD), of("granite", "lora", SAVED),
    of("olmo2", "full", AMP), of("t5", "full", {}), of("t5", "lora", SAVED),
    of("bert", "lora", {}, "token-classification"), of("deberta-v2", "full", SAVED, "token-classification"),
]  # fmt: skip

METHODS = ("full", "partial", "lora", "qlora")
EVERYTHING = [
    of(model, method, knobs)
    for model in BUILDERS
    for method in METHODS
    for knobs in ({}, SAVED, AMP, {**SAVED, **HALF})
    if not (model in NOT_CHECKPOINTED and "gradient_checkpointing" in knobs)
]


def traced_bytes(spec: ModelSpec, method: str, execution: ExecutionPlan) -> int:
    strategy = get_strategy(method).default_config(spec)
    request = TraceRequest(spec, strategy, execution, execution.max_seq_length, evaluation=False)
    recording = trace_step(request).recording
    sizes = np.array([storage.size_bytes for storage in recording.storages])
    events = np.array([(sign, storage) for sign, storage, _ in recording.events])
    return int((events[:, 0] * sizes[events[:, 1]]).cumsum().max())


def check(spec: ModelSpec, method: str, execution: ExecutionPlan) -> None:
    traced = traced_bytes(spec, method, execution)
    strategy = get_strategy(method).default_config(spec)
    profiled = profile_step_memory(spec, strategy, execution, execution.max_seq_length)
    assert traced == pytest.approx(profiled.peak_bytes, rel=TOLERANCE)


@pytest.mark.parametrize("case", EVERYDAY, ids=str)
def test_traced_peak_is_the_profiled_peak(case: Case, tmp_path: Path) -> None:
    spec = tiny_spec(case.model, case.task, tmp_path)
    check(spec, case.method, ExecutionPlan(**{"micro_batch_size": 8, "max_seq_length": LENGTH, **case.knobs}))


@pytest.mark.slow
@pytest.mark.parametrize("case", EVERYTHING, ids=str)
def test_every_architecture_times_every_method(case: Case, tmp_path: Path) -> None:
    spec = tiny_spec(case.model, case.task, tmp_path)
    check(spec, case.method, ExecutionPlan(**{"micro_batch_size": 8, "max_seq_length": LENGTH, **case.knobs}))


def test_every_architecture_has_a_case() -> None:
    everyday = {case.model for case in EVERYDAY}
    assert set(BUILDERS) - everyday == {"bert", "roberta", "distilbert", "deberta-v2", "llama"} - everyday
    assert len(EVERYDAY) >= 23 and len(EVERYTHING) >= 300


@st.composite
def configurations(draw: st.DrawFn) -> tuple[str, str, dict[str, int], dict[str, Any]]:
    """An encoder or decoder of any small size, a method, and a batch."""
    model = draw(st.sampled_from(["bert", "llama", "qwen3", "gpt_neox"]))
    heads, groups, width = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.sampled_from([8, 16, 24]))
    shape = {
        "hidden_size": heads * groups * width,
        "num_attention_heads": heads * groups,
        "num_hidden_layers": draw(st.integers(3, 5)),
        "intermediate_size": draw(st.integers(2, 8)) * 16,
        "vocab_size": draw(st.integers(300, 3000)),
    }
    if model in ("llama", "qwen3"):
        shape["num_key_value_heads"] = heads
    if model == "qwen3":
        shape["head_dim"] = width
    knobs = {
        "micro_batch_size": draw(st.integers(2, 9)),
        "max_seq_length": draw(st.integers(9, 96)),
        "gradient_checkpointing": draw(st.booleans()),
        "padded": draw(st.booleans()),
    }
    return model, draw(st.sampled_from(["full", "partial", "lora", "qlora", "ia3"])), shape, knobs


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=configurations())
def test_drawn_configurations(drawn: tuple[str, str, dict[str, int], dict[str, Any]], tmp_path: Path) -> None:
    model, method, shape, knobs = drawn
    check(tiny_spec(model, main_task(model), tmp_path, **shape), method, ExecutionPlan(**knobs))
