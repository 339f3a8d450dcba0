"""The traced peak of a pack's step is that of the real one, seen by torch.profiler's memory events."""

from __future__ import annotations

import gc
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from advisor.core.plan import ExecutionPlan
from advisor.core.strategy import StrategyConfig
from advisor.costmodel.model import CostModel
from advisor.hardware.profiles import load_profile
from advisor.measurement.step_profile import memory_events
from advisor.strategies.lora import LoraKnobs
from advisor.tracing.packed_step import PackedLoop, trace_pack
from advisor.tracing.step import StepTrace, TraceRequest
from advisor.training.build import build_model
from advisor.training.synthetic import synthetic_batch
from tests.tracing.tiny import tiny_spec

LENGTH, TOLERANCE = 64, 1e-3
MEMBERS = [StrategyConfig("lora", 1e-3, knobs=LoraKnobs(rank=rank, lora_dropout=0.1)) for rank in (4, 16, 8)]


def live_after_bytes(trace: StepTrace) -> int:
    """What is left of a step: weights, states and batches, as before it."""
    sizes = np.array([storage.size_bytes for storage in trace.recording.storages])
    signs, storages = np.array([(sign, storage) for sign, storage, _ in trace.recording.events]).T
    return int((signs * sizes[storages]).sum())


@pytest.mark.parametrize(
    ("model", "task", "switches"),
    [
        ("bert", "sequence-classification", {}),
        ("llama", "causal-lm", {"gradient_checkpointing": True}),
        pytest.param("bert", "sequence-classification", {"gradient_checkpointing": True}, marks=pytest.mark.slow),
        pytest.param("llama", "causal-lm", {}, marks=pytest.mark.slow),
    ],
)
def test_a_packs_peak_is_predicted(model: str, task: str, switches: dict[str, bool], tmp_path: Path) -> None:
    spec = tiny_spec(model, task, tmp_path)  # type: ignore[arg-type]
    execution = ExecutionPlan(4, max_seq_length=LENGTH, **switches)
    traced = trace_pack(TraceRequest(spec, MEMBERS[0], execution, LENGTH, evaluation=False), MEMBERS)
    models = []
    for strategy in MEMBERS:
        torch.manual_seed(0)
        models.append(build_model(spec, strategy, execution))
    loop = PackedLoop(models, MEMBERS, execution, "cpu")
    batches = [synthetic_batch(spec, 4, LENGTH, padded=True) for _ in MEMBERS]
    loop.step(batches)
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        loop.step(batches)
    grown = max(itertools.accumulate(memory_events(profiled), initial=0))
    assert traced.peak_bytes == pytest.approx(live_after_bytes(traced) + grown, rel=TOLERANCE)


def test_a_pack_costs_more_than_one_run_and_less_than_all(tmp_path: Path) -> None:
    """On a card whose kernels are too small to fill it, one pass for all is faster."""
    spec = tiny_spec("llama", "causal-lm", tmp_path)
    cost_model = CostModel(load_profile("rtx-4060"), cache_dir=tmp_path / "traces")
    execution = ExecutionPlan(2, max_seq_length=LENGTH)
    one, three = cost_model.pack(spec, MEMBERS[:1], execution), cost_model.pack(spec, MEMBERS, execution)
    assert one.allocated_bytes < three.allocated_bytes < 3 * one.allocated_bytes
    assert one.speed_up == pytest.approx(1.0)
    assert 1.5 < three.speed_up <= 3.0
