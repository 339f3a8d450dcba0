"""What is said about a case before it runs, and which cases are not run."""

from __future__ import annotations

import dataclasses

import pytest

from advisor.core.coefficients import Calibration, StepPoint
from advisor.core.device import DeviceProfile, Rate
from advisor.core.plan import ExecutionPlan
from advisor.costmodel.time.operator_times import execution_key
from advisor.experiments.validation.cases import Case
from advisor.experiments.validation.predict import GridDevice, prepare

GIB = 2**30
CPU = DeviceProfile(
    id="cpu-test",
    name="a CPU",
    type="cpu",
    memory_bytes=8 * GIB,
    context_bytes=500 * 2**20,
    flops_per_s={"float32": Rate(5e10, "probed")},
    bytes_per_s={"memory": Rate(1e10, "probed")},
    launch_s=5e-6,
)
CUDA = dataclasses.replace(
    CPU, id="gpu-test", name="a GPU", type="cuda", compute_capability=(8, 0), workspace_bytes=8 * 2**20
)
ON_CPU, ON_CUDA = GridDevice(CPU, None, CPU.memory_bytes), GridDevice(CUDA, None, CUDA.memory_bytes)
SMALL = Case("bert-small", "lora", 4, 32)


def test_a_case_is_predicted_before_it_runs() -> None:
    prepared = prepare(SMALL, ON_CPU)
    assert prepared.runnable
    assert prepared.config is not None
    predicted = prepared.record.predicted
    assert predicted is not None
    assert predicted.fits
    assert predicted.device_bytes < predicted.upper_bytes < CPU.memory_bytes
    low, high = predicted.intervals["allocated_bytes"]
    assert low < predicted.allocated_bytes < high
    assert prepared.record.total_parameters == 12_750_594
    assert prepared.record.execution == {"attn_implementation": "sdpa"}


def test_an_architecture_without_sdpa_is_run_eagerly() -> None:
    prepared = prepare(Case("deberta-small", "head", 2, 16), ON_CPU)
    assert prepared.record.execution["attn_implementation"] in ("eager", "sdpa")
    assert prepared.config is not None
    assert prepared.config.execution.attn_implementation == prepared.record.execution["attn_implementation"]


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (dataclasses.replace(SMALL, length=4096), "512 positions"),
        (dataclasses.replace(SMALL, knobs={"rank": 4096}), "rank"),
        (dataclasses.replace(SMALL, knobs={"no_such_knob": 1}), "no_such_knob"),
        (dataclasses.replace(SMALL, execution={"no_such_switch": 1}), "no_such_switch"),
        (dataclasses.replace(SMALL, method="no_such_method"), "no_such_method"),
    ],
)
def test_what_cannot_be_built_is_refused_with_the_reason(case: Case, words: str) -> None:
    prepared = prepare(case, ON_CPU)
    assert not prepared.runnable
    assert prepared.record.outcome == "refused"
    assert words in prepared.record.reason


def test_what_cannot_fit_is_skipped_unless_it_is_meant_to() -> None:
    tiny = GridDevice(dataclasses.replace(CUDA, memory_bytes=GIB), None, 400 * 2**20)
    prepared = prepare(SMALL, tiny)
    assert (prepared.runnable, prepared.record.outcome) == (False, "skipped")
    assert "bytes" in prepared.record.reason
    meant = prepare(dataclasses.replace(SMALL, room=0.5), tiny)
    assert meant.runnable
    assert meant.record.predicted is not None
    assert not meant.record.predicted.fits


def test_near_and_beyond_the_capacity_the_rows_come_from_the_prediction() -> None:
    near, beyond = (prepare(Case("bert-small", "full", 1, 128, fill=fill), ON_CUDA).record for fill in (0.9, 1.25))
    assert near.predicted is not None
    assert beyond.predicted is not None
    assert 0.85 < near.predicted.device_bytes / CUDA.memory_bytes <= 0.9
    # Rows are chosen with bounded figures; the replay of the chosen case may say a little more.
    assert 1.2 < beyond.predicted.device_bytes / CUDA.memory_bytes <= 1.3
    assert 1 < near.rows < beyond.rows
    assert not beyond.predicted.fits


def test_a_smaller_card_is_imitated_by_a_limit_on_the_allocator() -> None:
    prepared = prepare(dataclasses.replace(SMALL, room=0.8), ON_CUDA)
    assert prepared.record.predicted is not None
    capacity_bytes = prepared.record.capacity_bytes
    assert capacity_bytes < prepared.record.predicted.upper_bytes
    assert prepared.allocator_limit_bytes == capacity_bytes - CUDA.context_bytes


def test_cases_that_need_a_missing_package_are_skipped_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "bitsandbytes" else find(name, *rest)
    )
    for case in (
        Case("bert-small", "qlora", 4, 32),
        dataclasses.replace(SMALL, execution={"optim": "adamw_bnb_8bit"}),
    ):
        prepared = prepare(case, ON_CPU)
        assert (prepared.runnable, prepared.record.outcome) == (False, "skipped")
        assert "bitsandbytes" in prepared.record.reason


def test_a_timed_case_carries_its_work_and_whether_the_calibration_knows_it() -> None:
    untimed = prepare(SMALL, ON_CPU).record.predicted
    assert untimed is not None
    assert untimed.work is None
    case = dataclasses.replace(SMALL, repeats=5)
    unseen = prepare(case, ON_CPU).record.predicted
    assert unseen is not None
    assert unseen.work is not None
    assert unseen.work.operators > 300
    # Frozen weights: 4 FLOPs per parameter and token, all but those of position embeddings.
    assert unseen.work.flops["float32"] == pytest.approx(4 * unseen.work.computed_parameters * 4 * 32, rel=0.05)
    assert unseen.work.roofline_s is not None
    assert not unseen.seen
    assert unseen.step_basis == "datasheet"
    key = "bert/sequence-classification/256x6/30522"
    point = StepPoint(key, "lora", execution_key(ExecutionPlan(4)), 4, 32, (1.0,), ())
    for points, seen in (((point,), True), ((dataclasses.replace(point, seq_length=64),), False)):
        setting = dataclasses.replace(ON_CPU, calibration=Calibration("cpu-test", {}, "", {}, points=points))
        found = prepare(case, setting).record.predicted
        assert found is not None
        assert found.seen is seen
