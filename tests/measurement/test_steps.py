"""Timed and profiled steps on synthetic batches."""

from __future__ import annotations

import dataclasses
import gc
from pathlib import Path

import pytest

from advisor.core.errors import ModelError
from advisor.core.model import ModelSpec
from advisor.core.plan import ExecutionPlan
from advisor.core.strategy import StrategyConfig
from advisor.measurement.operator_profile import EVALUATION_PASSES
from advisor.measurement.step_profile import ProfiledStep
from advisor.measurement.steps import StepRequest, measure_steps
from tests.measurement.profiled import profile_step_memory
from tests.training.training_runs import lora_strategy, save_model

EXECUTION = ExecutionPlan(8, max_seq_length=32, num_threads=1)


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    from advisor.training.models import inspect_model

    return inspect_model(str(save_model(tmp_path_factory.mktemp("tiny") / "model")), "sequence-classification")


def profiled(spec: ModelSpec, strategy: StrategyConfig, execution: ExecutionPlan = EXECUTION) -> ProfiledStep:
    return profile_step_memory(spec, strategy, execution, 32)


def test_steps_are_timed_without_the_warm_up(spec: ModelSpec) -> None:
    measured = measure_steps(
        StepRequest(spec, lora_strategy(), EXECUTION, 32, steps=6, warmup_steps=3, profile_memory=True, evaluate=True)
    )
    assert len(measured.step_times_s) == 6
    assert min(measured.step_times_s) > 0
    assert 0 < measured.baseline_resident_bytes < measured.resident_peak_bytes
    assert measured.profiled is not None
    assert measured.allocated_peak_bytes == measured.profiled.peak_bytes
    assert 0 < measured.trainable_parameters < measured.total_parameters
    assert measured.evaluation is not None
    assert len(measured.evaluation.times_s) == EVALUATION_PASSES
    assert min(measured.evaluation.times_s) > 0
    assert (measured.evaluation.profile, measured.operators) == (None, None), "not asked for"


def test_nothing_leaks_from_step_to_step_and_the_parts_add_up(spec: ModelSpec) -> None:
    step = profiled(spec, StrategyConfig("full", 1e-3))
    assert step.live_after_bytes == pytest.approx(step.live_before_bytes, abs=256)
    parts = step.parameters_bytes + step.buffers_bytes + step.optimizer_states_bytes + step.other_bytes
    assert parts == step.live_before_bytes
    assert step.peak_bytes >= step.live_before_bytes + step.largest_allocation_bytes


def test_what_is_alive_is_what_the_model_and_adam_hold(spec: ModelSpec) -> None:
    step = profiled(spec, StrategyConfig("full", 1e-3))
    assert step.parameters_bytes == 4 * spec.total_parameters
    assert step.optimizer_states_bytes == pytest.approx(8 * spec.total_parameters, rel=0.01)  # and a step counter each
    batch_bytes = 8 * (8 * 32 * 2 + 8)  # int64: ids and mask, and one label a row
    assert step.other_bytes >= 2 * batch_bytes  # this step's and the loader's next one


def test_profiles_repeat_exactly_whenever_the_collector_comes(spec: ModelSpec) -> None:
    first, thresholds = profiled(spec, lora_strategy()), gc.get_threshold()
    gc.set_threshold(20)
    try:
        again = profiled(spec, lora_strategy())
    finally:
        gc.set_threshold(*thresholds)
    assert gc.isenabled()
    # once seen: the release of one scalar more, of a tensor that Python does not reach (left by an earlier test)
    assert abs(again.events - first.events) <= 1
    assert again.live_after_bytes == pytest.approx(first.live_after_bytes, abs=16)
    assert dataclasses.replace(again, events=first.events, live_after_bytes=first.live_after_bytes) == first


def test_methods_and_execution_order_as_they_should(spec: ModelSpec) -> None:
    full, lora = profiled(spec, StrategyConfig("full", 1e-3)), profiled(spec, lora_strategy())
    assert lora.optimizer_states_bytes < full.optimizer_states_bytes / 4
    assert lora.peak_bytes < full.peak_bytes
    smaller = profiled(spec, lora_strategy(), dataclasses.replace(EXECUTION, micro_batch_size=2))
    checkpointed = profiled(spec, lora_strategy(), dataclasses.replace(EXECUTION, gradient_checkpointing=True))
    accumulated = dataclasses.replace(EXECUTION, micro_batch_size=2, gradient_accumulation_steps=4)
    assert smaller.peak_bytes < lora.peak_bytes
    assert checkpointed.peak_bytes < lora.peak_bytes
    assert smaller.peak_bytes < profiled(spec, lora_strategy(), accumulated).peak_bytes < lora.peak_bytes


def test_another_depth_needs_no_weights(spec: ModelSpec) -> None:
    deeper = profile_step_memory(spec, StrategyConfig("full", 1e-3), EXECUTION, 32, num_hidden_layers=4)
    assert deeper.parameters_bytes > 4 * spec.total_parameters


def test_expected_failures_cross_the_process_border(spec: ModelSpec) -> None:
    impossible = dataclasses.replace(EXECUTION, attn_implementation="flash_attention_2")
    with pytest.raises(ModelError):
        measure_steps(StepRequest(spec, lora_strategy(), impossible, 32))


def test_requests_are_checked() -> None:
    with pytest.raises(ValueError, match=r"steps >= 1 or profile_memory.*"):
        StepRequest(None, lora_strategy(), EXECUTION, 32, steps=0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="warmup_steps >= 1"):
        StepRequest(None, lora_strategy(), EXECUTION, 32, warmup_steps=0)  # type: ignore[arg-type]


@pytest.mark.parametrize("padded", [True, False])
def test_synthetic_batches_look_like_the_collators(spec: ModelSpec, padded: bool) -> None:
    from advisor.training.synthetic import synthetic_batch

    batch = synthetic_batch(spec, 4, 16, padded=padded)
    assert batch["input_ids"].shape == (4, 16)
    assert batch["labels"].shape == (4,)
    assert bool((batch["attention_mask"] == 0).any()) is padded
    assert int(batch["input_ids"].max()) < spec.vocab_size
    pads = batch["input_ids"] == 0
    assert bool((pads == (batch["attention_mask"] == 0)).all())
    packed = synthetic_batch(dataclasses.replace(spec, task="masked-lm"), 4, 16, padded=False)
    assert set(packed) == {"input_ids", "labels"}


def test_no_folder_is_left_behind(spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", None)
    profiled(spec, lora_strategy())
    assert not list(tmp_path.iterdir())
