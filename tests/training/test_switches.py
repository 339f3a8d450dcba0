"""Execution switches: refused with rule, value and fix where they do not go together, else honoured by a real run."""

from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from advisor.core.errors import InputError
from advisor.core.plan import ExecutionPlan, Plan
from advisor.core.strategy import StrategyConfig
from advisor.strategies import get_strategy
from advisor.strategies.peft import PeftKnobs
from advisor.tracing.step import TraceRequest, trace_step
from advisor.training import compilation, switches
from advisor.training.build import build_model
from advisor.training.callbacks import StepClock
from advisor.training.switches import check_execution, prepare_for_scaling
from advisor.training.trainer import train
from tests.tracing.tiny import tiny_spec
from tests.training import training_runs

CLASSIFY = "sequence-classification"
REFUSED = [
    ("full", {"optim": "lorafa"}, "cpu", "trains LoRA adapters, but the method is full"),
    ("sparse_lora", {"optim": "lorafa"}, "cuda", "but the method is sparse_lora"),
    ("full", {"optim": "paged_adamw_8bit"}, "cpu", "pages its states out of a GPU, but the device is a CPU"),
    ("lora", {"loss": "fused-linear"}, "cuda", "but the task is sequence-classification"),
    ("lora", {"kbit_upcast": True}, "cuda", "4-bit weights, but lora keeps them"),
    ("lora", {"reentrant_checkpointing": True}, "cuda", "but that is off"),
    ("lora", {"amp": "fp16"}, "cpu", "needs a GPU, but the device is a CPU"),
    ("lora", {"tf32": True}, "cpu", "tensor cores, but the device is a CPU"),
    ("qlora", {"torch_compile": True}, "cpu", "nothing on 4-bit weights"),
]


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    strategy = training_runs.lora_strategy(num_train_epochs=0.5)
    return training_runs.tiny_plan(tmp_path_factory.mktemp("tiny"), strategy=strategy)


def with_knobs(plan: Plan, **knobs: Any) -> Plan:
    return dataclasses.replace(plan, execution=dataclasses.replace(plan.execution, **knobs))


@pytest.mark.parametrize(("method", "knobs", "device_type", "message"), REFUSED, ids=str)
def test_what_does_not_go_together_is_refused_with_a_fix(
    method: str, knobs: dict[str, Any], device_type: str, message: str, tmp_path: Path
) -> None:
    spec = tiny_spec("bert", CLASSIFY, tmp_path)
    strategy = get_strategy(method).default_config(spec)
    with pytest.raises(InputError, match=message) as refusal:
        check_execution(spec, strategy, ExecutionPlan(4, **knobs), device_type=device_type, traced=True)
    assert refusal.value.fix


def test_all_findings_are_reported_together(tmp_path: Path) -> None:
    spec = tiny_spec("bert", CLASSIFY, tmp_path)
    execution = ExecutionPlan(4, optim="lorafa", loss="fused-linear", kbit_upcast=True)
    with pytest.raises(InputError) as refusal:
        check_execution(spec, StrategyConfig("full", 1e-3), execution, device_type="cpu", traced=True)
    assert len(refusal.value.problems) == 2


def test_a_missing_bitsandbytes_stops_a_run_but_not_a_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, strategy = tiny_spec("bert", CLASSIFY, tmp_path), StrategyConfig("full", 1e-3)
    monkeypatch.setattr(switches.importlib.util, "find_spec", lambda name: None)
    execution = ExecutionPlan(4, optim="adamw_bnb_8bit")
    check_execution(spec, strategy, execution, device_type="cuda", traced=True)
    with pytest.raises(InputError, match="bitsandbytes, which is not installed"):
        check_execution(spec, strategy, execution, device_type="cuda", traced=False)


def test_lorafa_wants_plain_lora_adapters(tmp_path: Path) -> None:
    spec = tiny_spec("bert", CLASSIFY, tmp_path)
    for values, found in (({"peft_type": "LORA", "use_dora": True}, "DoRA"), ({"peft_type": "IA3"}, "IA3")):
        strategy = StrategyConfig("peft", 1e-3, knobs=PeftKnobs(peft_config=values))
        with pytest.raises(InputError, match=f"but the model has {found}"):
            build_model(spec, strategy, ExecutionPlan(4, optim="lorafa"), empty=True)


def test_the_gradient_scaler_meets_no_half_precision_weights(tmp_path: Path) -> None:
    spec = tiny_spec("bert", CLASSIFY, tmp_path)
    scaled = ExecutionPlan(4, dtype="float16", amp="fp16")
    plain = dataclasses.replace(scaled, amp="none")
    lora = build_model(spec, get_strategy("lora").default_config(spec), plain)
    assert torch.float16 in {p.dtype for p in lora.parameters() if p.requires_grad}  # PEFT's copy of the head
    prepare_for_scaling(lora, scaled)
    assert {p.dtype for p in lora.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in lora.parameters() if not p.requires_grad} == {torch.float16}
    with pytest.raises(InputError, match="cannot train weights stored in float16"):
        prepare_for_scaling(build_model(spec, StrategyConfig("full", 1e-3), plain), scaled)


def test_features_of_a_half_precision_model_need_no_gradient_scaler(tmp_path: Path) -> None:
    """A card without bfloat16 (T4) computes them in float16."""
    spec = tiny_spec("bert", CLASSIFY, tmp_path)
    probe = get_strategy("linear_probe").default_config(spec)
    execution = ExecutionPlan(4, dtype="float16", amp="fp16")
    request = TraceRequest(spec, probe, execution, 16, semantics="cuda", compute_capability=(7, 5), evaluation=False)
    assert trace_step(request).trainable_parameters > 0


def test_upcast_keeps_four_bit_weights_and_makes_the_rest_float32(tmp_path: Path) -> None:
    spec = tiny_spec("llama", "causal-lm", tmp_path)
    strategy = get_strategy("qlora").default_config(spec)
    model = build_model(spec, strategy, ExecutionPlan(4, dtype="bfloat16", kbit_upcast=True))
    assert {p.dtype for p in model.parameters()} == {torch.uint8, torch.float32}


def test_lorafa_trains_the_second_factor_only_and_resumes_to_the_bit(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file

    lorafa = with_knobs(plan, optim="lorafa")
    whole = train(lorafa, tmp_path / "whole")
    assert whole.trainable_parameters < train(plan, tmp_path / "lora").trainable_parameters
    original, interrupted = StepClock.on_step_begin, []

    def interrupting(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        original(self, args, state, control, **kwargs)
        if state.global_step == 9 and not interrupted:
            interrupted.append(state.global_step)
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(StepClock, "on_step_begin", interrupting)
    assert train(lorafa, tmp_path / "parts").outcome == "interrupted"
    assert train(lorafa, tmp_path / "parts", resume=True).metrics == whole.metrics
    torch.manual_seed(0)
    saved = load_file(tmp_path / "whole/model/adapter_model.safetensors")
    again = load_file(tmp_path / "parts/model/adapter_model.safetensors")
    assert all(torch.equal(saved[name], again[name]) for name in saved)
    assert all(value.any() for name, value in saved.items() if "lora_B" in name)


@pytest.mark.parametrize("optim", ["adamw_torch", "sgd", "adafactor", "adamw_bnb_8bit"])
def test_a_run_uses_the_planned_optimizer(plan: Plan, optim: str, tmp_path: Path) -> None:
    measurement = train(with_knobs(plan, optim=optim), tmp_path / "run")
    assert measurement.outcome == "completed"
    assert len(measurement.step_times_s) == 20


def test_another_loops_habits_do_not_change_what_is_learned(plan: Plan, tmp_path: Path) -> None:
    stock = train(plan, tmp_path / "stock")
    other = train(with_knobs(plan, hold_outputs=True, zero_grad_set_to_none=False), tmp_path / "other")
    assert other.train_losses == stock.train_losses


@pytest.mark.parametrize("knobs", [{}, {"gradient_accumulation_steps": 2}], ids=str)
def test_reentrant_checkpointing_learns_the_same(plan: Plan, knobs: dict[str, Any], tmp_path: Path) -> None:
    losses = [
        train(
            with_knobs(plan, gradient_checkpointing=True, reentrant_checkpointing=way, **knobs), tmp_path / str(way)
        ).train_losses
        for way in (False, True)
    ]
    assert [loss for _, loss in losses[0]] == pytest.approx([loss for _, loss in losses[1]], rel=1e-4)


def test_a_run_is_compiled_only_where_there_is_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, strategy = tiny_spec("bert", CLASSIFY, tmp_path), StrategyConfig("full", 1e-3)
    execution = ExecutionPlan(4, torch_compile=True)
    check_execution(spec, strategy, execution, device_type="cpu", traced=False)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: None)
    check_execution(spec, strategy, execution, device_type="cpu", traced=True)
    with pytest.raises(InputError, match=r"C\+\+ compiler, but found none") as refusal:
        check_execution(spec, strategy, execution, device_type="cpu", traced=False)
    assert "torch_compile" in str(refusal.value.fix)
    monkeypatch.setattr("sys.platform", "win32")
    with pytest.raises(InputError, match="Windows"):
        check_execution(spec, strategy, execution, device_type="cpu", traced=False)


def test_a_compiler_that_fails_is_told_and_the_run_goes_on_without(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(model: Any) -> Any:
        raise RuntimeError("CppCompileError: no header files\nand more")

    monkeypatch.setattr(torch, "compile", broken)
    assert compilation.compile_problem("cpu") == "RuntimeError: CppCompileError: no header files"
    events: list[dict[str, Any]] = []
    compiled = with_knobs(plan, torch_compile=True)
    assert train(compiled, tmp_path / "run", on_event=events.append).outcome == "completed"
    assert any("continues without" in event.get("text", "") for event in events if event["kind"] == "note")


def test_a_run_uses_the_planned_threads(plan: Plan, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    try:
        short = dataclasses.replace(plan, strategy=dataclasses.replace(plan.strategy, num_train_epochs=0.05))
        train(with_knobs(short, num_threads=2), tmp_path / "run")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
