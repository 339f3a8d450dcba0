"""Calibrating for real: a tiny model on this machine, interrupted, repeated with a second model; the held-out error."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest

from advisor.calibration.calibrate import calibrate_device
from advisor.calibration.database import load_calibration
from advisor.calibration.measure import Measurer
from advisor.calibration.plan import (
    QUICK_REPLAY_S,
    SHORT_STEPS,
    STEPS,
    BatchShape,
    BenchmarkPlan,
    default_models,
    encoder,
    feasible_shapes,
    large_decoder,
    make_plan,
)
from advisor.calibration.selection import calibrated_now
from advisor.core.coefficients import Calibration
from advisor.core.device import DeviceProfile, Rate
from advisor.core.errors import DeviceError, InterruptedByUser
from advisor.core.model import ModelSpec
from advisor.costmodel.time.operator_times import OperatorClock, OperatorSeconds, model_key
from advisor.costmodel.time.step import StepConditions, step_time
from advisor.hardware import load_profile
from advisor.training.models import inspect_model
from tests.tracing.tiny import tiny_spec

DEVICE = DeviceProfile(
    "cpu-test-2c",
    "the machine that tests",
    "cpu",
    2**34,
    flops_per_s={"float32": Rate(5e10, "assumed by the test")},
    bytes_per_s={"memory": Rate(5e9, "assumed by the test")},
    launch_s=5e-6,
    basis="measured",
)


class ShortPlan(Measurer):
    """This machine, with the first cases of the quick plan at shapes for a slow one, and little time for one replay.

    Args:
        cases: Which of the first three.
        replay_s: For all replays.
    """

    def __init__(self, cases: slice = slice(3), replay_s: float = QUICK_REPLAY_S) -> None:
        self._cases, self._replay_s = cases, replay_s

    def other_work(self) -> str:
        return "other tests run at the same time"

    def plan(
        self, model: ModelSpec, device: DeviceProfile, *, quick: bool, measured: Sequence[BatchShape]
    ) -> BenchmarkPlan:
        slow = dataclasses.replace(device, flops_per_s={"float32": Rate(2e9, "assumed by the test")})
        plan = make_plan(model, slow, quick=True)
        cases = plan.cases[:3][self._cases]
        return dataclasses.replace(plan, cases=cases, replay_s=self._replay_s, call_s=0.005, limit_s=0)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    return tiny_spec("bert", "sequence-classification", tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def calibrated(bert: ModelSpec) -> Calibration:
    return calibrate_device(bert, quick=True, device=DEVICE, measurer=ShortPlan())


def test_every_part_is_measured(calibrated: Calibration, bert: ModelSpec) -> None:
    assert calibrated.partial == ""
    assert {p.method for p in calibrated.points} == {"lora", "full", "head"}
    assert all(p.model_key == model_key(bert) for p in calibrated.points)
    assert any(key.startswith("gemm") for key in calibrated.classes)
    assert "optimizer_fused/float32" in calibrated.classes
    assert calibrated.step is not None
    assert calibrated.step.samples == 3
    assert calibrated.resident is not None
    assert calibrated.resident.samples == 3
    assert calibrated.resident.residual_relative < 0.05
    assert calibrated.held_out is not None
    assert calibrated.versions["torch"]


def test_nearly_all_of_a_step_is_seen_by_the_profiler(calibrated: Calibration) -> None:
    for point in calibrated.points:
        seen = [count for (*_, count), seconds in zip(point.work, point.work_s, strict=True) if seconds > 0]
        assert sum(seen) > 0.85 * point.operators
        inside_s = sum(count * seconds for (*_, count), seconds in zip(point.work, point.work_s, strict=True))
        assert 0.3 * point.median_s < inside_s < point.median_s
    assert sum(bool(point.evaluation_times_s) for point in calibrated.points) == 2
    assert calibrated.evaluation is not None


def test_all_operators_of_the_steps_are_covered(calibrated: Calibration) -> None:
    clock = OperatorClock(DEVICE, calibrated)
    for point in calibrated.points:
        missing = [key for key, flops, moved, _ in point.work if not clock.seconds_of(key, flops, moved)[1]]
        assert missing == []
        assert point.operators > 100


def test_the_steps_themselves_come_out(calibrated: Calibration) -> None:
    """In-sample, so this tests the plumbing, not the model: everything wrong by half would show."""
    clock = OperatorClock(DEVICE, calibrated)
    for point in calibrated.points:
        work = OperatorSeconds(clock.work_seconds(point.work), point.operators)
        tokens = point.micro_batch_size * point.seq_length
        setting = StepConditions(point.model_key, point.method, point.execution_key, tokens)
        step = step_time(work, DEVICE, calibrated, setting)
        assert step.basis == "calibrated"
        assert 0.4 * point.median_s < step.seconds < 2.5 * point.median_s


def test_it_is_stored(calibrated: Calibration) -> None:
    assert calibrated_now(DEVICE) == calibrated


def test_a_second_model_adds_to_the_first(calibrated: Calibration, tmp_path: Path) -> None:
    llama = tiny_spec("llama", "causal-lm", tmp_path)
    both = calibrate_device(llama, quick=True, device=DEVICE, measurer=ShortPlan(slice(2, 3), replay_s=2.0))
    assert {p.model_key for p in both.points} == {model_key(llama)} | {p.model_key for p in calibrated.points}
    assert len(both.points) == len(calibrated.points) + 1
    assert set(both.model_ratios) == {p.model_key for p in both.points}


def test_ctrl_c_keeps_what_was_measured(bert: ModelSpec) -> None:
    other = dataclasses.replace(DEVICE, id="cpu-interrupted-2c")

    seen: list[str] = []

    def interrupt(text: str, share: float) -> None:
        seen.append(text)
        if text.startswith("running") and sum(text.startswith("running") for text in seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(InterruptedByUser, match="interrupted") as stopped:
        calibrate_device(bert, quick=True, device=other, on_progress=interrupt, measurer=ShortPlan())
    assert "marked partial" in (stopped.value.fix or "")
    kept = load_calibration("cpu-interrupted-2c")
    assert kept is not None
    assert kept.partial == "interrupted"
    assert len(kept.points) == 1
    assert kept.step is not None
    assert kept.classes


def test_a_datasheet_cannot_be_calibrated(bert: ModelSpec) -> None:
    with pytest.raises(DeviceError, match="datasheet"):
        calibrate_device(bert, quick=True, device=load_profile("t4"))


def test_shapes_follow_the_size_of_the_model(bert: ModelSpec) -> None:
    small = feasible_shapes(bert, DEVICE, 0.8)
    large = feasible_shapes(dataclasses.replace(bert, total_parameters=10**9), DEVICE, 0.8)
    assert large == [(2, 16)]
    assert small[-1][0] * small[-1][1] > 1000
    assert all(length <= 16 for _, length in feasible_shapes(dataclasses.replace(bert, max_positions=16), DEVICE, 0.8))


def test_a_faster_probe_does_not_measure_everything_anew() -> None:
    def shapes_of(plan: BenchmarkPlan) -> list[tuple[int, int]]:
        return [(item.execution.micro_batch_size, item.seq_length) for item in plan.cases]

    faster = dataclasses.replace(DEVICE, flops_per_s={"float32": Rate(9e10, "assumed by the test")},
                                 bytes_per_s={"memory": Rate(9e9, "assumed by the test")})  # fmt: skip
    before = shapes_of(make_plan(encoder(), DEVICE, quick=False))
    assert shapes_of(make_plan(encoder(), faster, quick=False)) != before
    assert shapes_of(make_plan(encoder(), faster, quick=False, measured=before)) == before
    filled = dataclasses.replace(faster, available_bytes=850 * 2**20)
    largest = [max(rows * length for rows, length in shapes) for shapes in
               (before, shapes_of(make_plan(encoder(), filled, quick=False, measured=before)))]  # fmt: skip
    assert largest[1] < largest[0], "others hold the memory that it took then"
    one = [(2, 16)] * 4
    assert len(set(shapes_of(make_plan(encoder(), faster, quick=False, measured=one)))) > 3, "one is no calibration"


def test_a_full_plan_has_every_kind_of_step(bert: ModelSpec) -> None:
    plan = make_plan(bert, DEVICE, quick=False)
    assert len(plan.cases) >= 12
    assert {item.strategy.method for item in plan.cases} >= {"full", "partial", "head", "lora", "qlora", "ia3"}
    assert any(item.execution.gradient_checkpointing for item in plan.cases)
    assert any(item.execution.amp == "bf16" for item in plan.cases)


def test_no_configuration_is_measured_twice(bert: ModelSpec) -> None:
    slow = dataclasses.replace(DEVICE, flops_per_s={"float32": Rate(1e7, "assumed by the test")})
    plan = make_plan(bert, slow, quick=False)
    assert {(item.execution.micro_batch_size, item.seq_length) for item in plan.cases} == {(2, 16)}
    assert len({(item.strategy.method, item.execution) for item in plan.cases}) == len(plan.cases)
    lora = next(item for item in plan.cases if item.strategy.method == "lora")
    assert lora.evaluated, "as the first of its twins was"


def test_short_steps_are_repeated_more_often() -> None:
    items = make_plan(encoder(), DEVICE, quick=False).cases
    repeats = {(item.execution.micro_batch_size, item.seq_length): item.steps for item in items}
    shapes = sorted(repeats, key=lambda shape: shape[0] * shape[1])
    assert (repeats[shapes[0]], repeats[shapes[-1]]) == (SHORT_STEPS, STEPS)


def test_a_card_is_calibrated_with_a_large_decoder_as_far_as_it_fits() -> None:
    card = load_profile("rtx-4090")
    assert large_decoder() not in [spec for spec, _ in default_models(DEVICE, quick=False)]
    assert large_decoder() not in [spec for spec, _ in default_models(load_profile("t4"), quick=False)], "no bfloat16"
    assert large_decoder() in [spec for spec, _ in default_models(card, quick=False)]
    assert default_models(card, quick=True) == ((encoder(), True),)

    roomy = make_plan(large_decoder(), load_profile("h200-sxm"), quick=True)
    tight = make_plan(large_decoder(), dataclasses.replace(card, memory_bytes=16 * 2**30), quick=True)
    assert "full" in {item.strategy.method for item in roomy.cases}
    assert "full" not in {item.strategy.method for item in tight.cases}
    assert {item.execution.dtype for item in (*roomy.cases, *tight.cases)} == {"bfloat16"}
    assert max(item.seq_length * item.execution.micro_batch_size for item in tight.cases) > 500, "adapters still fit"


def test_the_large_decoder_is_what_transformers_makes_of_it() -> None:
    from advisor.strategies.skeleton import build_skeleton

    skeleton = build_skeleton(large_decoder())
    assert sum(p.numel() for p in skeleton.parameters()) == large_decoder().total_parameters


@pytest.mark.slow
def test_the_held_out_error_of_a_full_calibration_is_small(minilm_dir: Path) -> None:
    """On an idle machine: configurations that the fit did not see come out within 20 %."""
    spec = inspect_model(str(minilm_dir), "sequence-classification")
    from advisor.hardware import probe_device

    found = calibrate_device(spec, quick=False, device=probe_device(quick=True, device="cpu", save=False))
    assert found.held_out is not None
    assert found.held_out.samples == len(found.points)
    noise = max(p.noise_relative for p in found.points)
    assert found.held_out.median <= max(0.08, 1.5 * noise)
    assert found.held_out.worst <= max(0.25, 3 * noise)
