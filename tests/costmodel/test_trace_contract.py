"""The traced allocated peak is that of the real, unpatched Trainer step, seen by torch.profiler's memory events."""

from __future__ import annotations

from dataclasses import dataclass, field
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


@dataclass(frozen=True)
class Case:
    """A model, a method, and what differs from the default execution."""

    model: str
    task: Task
    method: str
    knobs: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        knobs = "-".join(f"{key}={value}" for key, value in self.knobs.items())
        return "-".join(part for part in (self.model, self.task, self.method, knobs) if part)


CLASSIFY: Task = "sequence-classification"
CHECKPOINTED = {"gradient_checkpointing": True}
EAGER = {"attn_implementation": "eager"}
CASES = [
    *(Case("bert", CLASSIFY, method) for method in ("full", "partial", "head", "lora", "high_rank_lora", "hira",
    "sparse_lora", "qlora", "ia3")), *(Case("bert", CLASSIFY, method, CHECKPOINTED) for method in ("full", "partial",
    "lora", "qlora")), *(Case("bert", CLASSIFY, method, EAGER) for method in ("full", "lora")), Case("bert", CLASSIFY,
    "full", {"amp": "bf16"}), Case("bert", CLASSIFY, "lora", {"amp": "bf16"}), Case("bert", CLASSIFY, "full",
    {"gradient_accumulation_steps": 2}), Case("bert", CLASSIFY, "full", {"optim": "adamw_torch"}), Case("bert",
    CLASSIFY, "lora", {"padded": False}), Case("bert", "masked-lm", "full"), Case("distilbert", CLASSIFY, "full"),
    Case("distilbert", CLASSIFY, "lora", CHECKPOINTED), Case("roberta", "masked-lm", "lora"), Case("deberta-v2",
    CLASSIFY, "lora", EAGER), Case("deberta-v2", CLASSIFY, "full", {**EAGER, **CHECKPOINTED}), Case("gpt2",
    "causal-lm", "lora"), Case("llama", CLASSIFY, "lora"), *(Case("llama", "causal-lm", method) for method in ("full",
    "lora", "qlora", "ia3")), Case("llama", "causal-lm", "lora", CHECKPOINTED), Case("llama", "causal-lm", "full",
    EAGER), Case("llama", "causal-lm", "full", {"dtype": "bfloat16", "gradient_accumulation_steps": 2}),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_traced_peak_is_the_profiled_peak(case: Case, tmp_path: Path) -> None:
    spec = tiny_spec(case.model, case.task, tmp_path)
    strategy = get_strategy(case.method).default_config(spec)
    execution = ExecutionPlan(**{"micro_batch_size": 8, "max_seq_length": LENGTH, **case.knobs})
    trace = trace_step(TraceRequest(spec, strategy, execution, LENGTH, evaluation=False))
    sizes = np.array([storage.size_bytes for storage in trace.recording.storages])
    events = np.array([(sign, storage) for sign, storage, _ in trace.recording.events])
    traced_bytes = int((events[:, 0] * sizes[events[:, 1]]).cumsum().max())

    profiled = profile_step_memory(spec, strategy, execution, LENGTH)

    assert traced_bytes == pytest.approx(profiled.peak_bytes, rel=TOLERANCE)


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 30
    assert len({case.method for case in CASES}) == 9
