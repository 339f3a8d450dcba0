"""Where a step's time goes: the profiler's events laid on the traced operators, grouped."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from advisor.core.device import Rate
from advisor.core.model import ModelSpec
from advisor.core.plan import ExecutionPlan
from advisor.core.strategy import StrategyConfig
from advisor.experiments.operator_families import (
    ADAPTERS,
    BETWEEN,
    FAMILIES,
    OPTIMIZER,
    StepFamilies,
    by_family,
    family_of,
    measured_seconds,
    profile_request,
    step_families,
)
from advisor.measurement.operator_profile import OperatorEvent, OperatorProfile, _device_events
from advisor.measurement.steps import run_steps
from advisor.tracing.ops import CLASS_OF, TracedOp
from tests.search.planner_fakes import cpu
from tests.training.training_runs import lora_strategy, save_model

EXECUTION = ExecutionPlan(4, max_seq_length=32, num_threads=1)


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    from advisor.training.models import inspect_model

    return inspect_model(str(save_model(tmp_path_factory.mktemp("tiny") / "model")), "sequence-classification")


def profiled(spec: ModelSpec, strategy: StrategyConfig, trace: Path | None = None) -> StepFamilies:
    device = dataclasses.replace(cpu(), bytes_per_s={"memory": Rate(2e10, "probed")})
    request = profile_request(spec, strategy, EXECUTION, device, 32, trace)
    return step_families(request, run_steps(request), device, None)


def test_a_real_step_is_grouped_without_a_rest(spec: ModelSpec, tmp_path: Path) -> None:
    lora = profiled(spec, lora_strategy(), tmp_path / "trace.json")
    assert sum(row.measured_s for row in lora.families) == pytest.approx(lora.step_s)
    assert {row.family for row in lora.families} <= set(FAMILIES)
    assert {row.phase for row in lora.families} == {"forward", "backward", "optimizer", "step"}
    assert lora.unseen_share < 0.2
    seen = {(row.family, row.phase): row for row in lora.families}
    for family, phase in ((ADAPTERS, "forward"), (ADAPTERS, "backward"), (OPTIMIZER, "optimizer")):
        assert seen[family, phase].measured_s > 0 and seen[family, phase].predicted_s > 0
    assert lora.measured_share(ADAPTERS) == pytest.approx(by_family(lora.families)[ADAPTERS][0] / lora.step_s)
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]


def test_without_an_adapter_nothing_is_an_adapter(spec: ModelSpec) -> None:
    full = profiled(spec, StrategyConfig("full", 1e-3))
    assert ADAPTERS not in by_family(full.families)
    assert by_family(full.families)["matrix products"][0] > 0


def op(name: str, phase: str = "forward") -> TracedOp:
    return TracedOp(f"{name}.default", phase, 10**9, 10, 10, "float32")  # type: ignore[arg-type]


def test_what_an_operator_counts_as() -> None:
    assert family_of(op("mm"), in_adapter=False) == "matrix products"
    assert family_of(op("mm"), in_adapter=True) == ADAPTERS
    assert family_of(op("dequantize_4bit"), in_adapter=True) == "4-bit and de-quantisation"
    assert family_of(op("mul", "optimizer"), in_adapter=True) == OPTIMIZER
    assert family_of(op("_foreach_norm"), in_adapter=False) == OPTIMIZER
    assert {family_of(op(name), in_adapter=False) for name in CLASS_OF} <= set(FAMILIES) - {ADAPTERS, BETWEEN}


def test_seconds_are_those_of_the_usual_step_and_inner_calls_count_once() -> None:
    operators = [op("mm"), op("gelu"), op("mm", "backward"), op("_fused_adamw_", "optimizer")]
    families = [family_of(one, in_adapter=False) for one in operators]
    events = (
        OperatorEvent("aten::mm", 0, 100),
        OperatorEvent("aten::gelu", 100, 40),
        OperatorEvent("aten::mul", 110, 20),  # inside gelu: it calls it
        OperatorEvent("aten::mm", 200, 300),
        OperatorEvent("aten::_fused_adamw_", 600, 60),
    )
    found, unseen = measured_seconds(operators, families, OperatorProfile(events, 1e-6), 2e-6)
    assert found == {
        ("matrix products", "forward"): pytest.approx(200e-9),
        ("normalisation and elementwise", "forward"): pytest.approx(80e-9),
        ("matrix products", "backward"): pytest.approx(600e-9),
        (OPTIMIZER, "optimizer"): pytest.approx(120e-9),
    }
    assert unseen == []


def test_what_only_one_side_has_is_told_or_counted_by_name() -> None:
    operators = [op("zeros"), op("mm"), op("mm", "backward")]
    events = (
        OperatorEvent("aten::mm", 0, 100),
        OperatorEvent("aten::mm", 200, 300),
        OperatorEvent("aten::zeros", 600, 10),
        OperatorEvent("aten::zeros", 620, 10),
    )
    families = [family_of(one, in_adapter=False) for one in operators]
    found, unseen = measured_seconds(operators, families, OperatorProfile(events, 1e-6), 1e-6)
    assert unseen == [0] and found["copies", "backward"] == pytest.approx(20e-9)


def test_on_an_accelerator_its_kernels_time_counts_and_not_their_launch() -> None:
    host, card = torch.autograd.DeviceType.CPU, torch.autograd.DeviceType.CUDA

    def event(name: str, start_us: float, elapsed_us: float, device_us: float, device: object = host) -> object:
        span = SimpleNamespace(start=start_us, elapsed_us=lambda: elapsed_us)
        return SimpleNamespace(name=name, time_range=span, thread=1, device_time_total=device_us, device_type=device)

    events = _device_events(
        [
            event("aten::mm", 5, 8, 100),
            event("aten::addmm", 0, 4, 50),
            event("sgemm_128x64", 3, 50, 50, card),
            event("autograd::engine::evaluate_function", 0, 20, 0),
        ]
    )
    assert [(one.name, one.busy_ns, one.duration_ns) for one in events] == [
        ("aten::addmm", 50_000, 4_000),
        ("aten::mm", 100_000, 8_000),
    ]
