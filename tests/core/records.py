"""Small complete records for the tests of this folder and of the rooms above."""

from __future__ import annotations

import dataclasses

from advisor.core.budget import Budget
from advisor.core.cost import (
    CostEstimate,
    InferenceEstimate,
    Interval,
    MemoryBreakdown,
    MemoryEstimate,
    QualityEstimate,
    TimeEstimate,
)
from advisor.core.data import DataProfile, DataSpec
from advisor.core.metrics import ACCURACY
from advisor.core.model import ModelSpec
from advisor.core.plan import ExecutionPlan, Plan
from advisor.core.run import Measurement
from advisor.core.strategy import StrategyConfig
from advisor.strategies.lora import LoraKnobs

MIB = 2**20


def model_spec(**changes: object) -> ModelSpec:
    spec = ModelSpec(
        source="./tiny",
        kind="folder",
        task="sequence-classification",
        config={"model_type": "bert", "hidden_size": 32},
        model_type="bert",
        total_parameters=100_000,
        hidden_size=32,
        num_hidden_layers=2,
        vocab_size=100,
        max_positions=128,
        has_weights=True,
        weights_bytes=400_000,
    )
    return dataclasses.replace(spec, **changes)  # type: ignore[arg-type]


def data_profile(**changes: object) -> DataProfile:
    profile = DataProfile(
        train_rows=900,
        eval_rows=100,
        token_length_quantiles=(4, 10, 20, 40),
        max_token_length=40,
        max_seq_length=64,
        sampled_rows=900,
        class_counts={"negative": 500, "positive": 400},
        fingerprint="abc",
    )
    return dataclasses.replace(profile, **changes)  # type: ignore[arg-type]


def cost_estimate(**changes: object) -> CostEstimate:
    memory = MemoryEstimate(
        allocated_bytes=100 * MIB,
        reserved_bytes=100 * MIB,
        device_bytes=600 * MIB,
        breakdown=MemoryBreakdown(40 * MIB, 10 * MIB, 20 * MIB, 30 * MIB, 0, 0, 500 * MIB),
        intervals={
            "allocated_bytes": Interval(98 * MIB, 102 * MIB),
            "reserved_bytes": Interval(98 * MIB, 102 * MIB),
            "device_bytes": Interval(550 * MIB, 650 * MIB),
        },
        peak_phase="backward",
        evidence="interpolated",
        basis="calibrated",
    )
    time = TimeEstimate(
        step_s=0.5,
        samples_per_s=64.0,
        tokens_per_s=1024.0,
        total_s=60.0,
        intervals={"step_s": Interval(0.4, 0.6), "total_s": Interval(50.0, 75.0)},
        parts={"loading": 2.0, "training": 53.0, "evaluation": 5.0},
        evidence="interpolated",
        basis="calibrated",
        inference=InferenceEstimate(
            samples_per_s=20.0,
            tokens_per_s=400.0,
            decode_tokens_per_s=None,
            intervals={"samples_per_s": Interval(15.0, 30.0), "tokens_per_s": Interval(300.0, 600.0)},
            evidence="interpolated",
            basis="calibrated",
        ),
        energy_basis="no power is known",
    )
    quality = QualityEstimate(
        metric=ACCURACY,
        value=0.8,
        interval=Interval(0.74, 0.86),
        p_at_least=None,
        certified=False,
        reason="published comparisons",
        evidence="extrapolated",
        basis="prior",
    )
    estimate = CostEstimate(memory, time, quality, True, 1_000, 100_000, "extrapolated", "prior")
    return dataclasses.replace(estimate, **changes)  # type: ignore[arg-type]


def make_plan(**changes: object) -> Plan:
    plan = Plan(
        model=model_spec(),
        data=DataSpec(source="rows.jsonl", kind="jsonl", text_column="text", label_column="label"),
        data_profile=data_profile(),
        strategy=StrategyConfig("lora", 1e-3, knobs=LoraKnobs(lora_alpha=16)),
        execution=ExecutionPlan(
            micro_batch_size=16, gradient_accumulation_steps=2, max_seq_length=64, eval_batch_size=32
        ),
        device="cpu-test",
        budget=Budget(memory_bytes=2**30, time_s=600.0),
        predicted=cost_estimate(),
    )
    return dataclasses.replace(plan, **changes)  # type: ignore[arg-type]


def measurement(**changes: object) -> Measurement:
    measured = Measurement(
        outcome="completed",
        allocated_peak_bytes=101 * MIB,
        device_peak_bytes=610 * MIB,
        step_times_s=(0.9, 0.5, 0.52, 0.48),
        total_s=61.0,
        metrics={"accuracy": 0.82, "eval_loss": 0.4},
        trainable_parameters=1_000,
        total_parameters=100_000,
    )
    return dataclasses.replace(measured, **changes)  # type: ignore[arg-type]
