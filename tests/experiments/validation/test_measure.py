"""Real steps of a case, how many and what is read around them, with hand-written answers where a GPU would give
them.
"""

from __future__ import annotations

import dataclasses
import time

import pytest

from advisor.core.plan import ExecutionPlan
from advisor.core.strategy import StrategyConfig
from advisor.experiments.grid import Cell, run_cells
from advisor.experiments.store import RecordStore
from advisor.experiments.validation.cases import grid_model
from advisor.experiments.validation.measure import (
    CARD_START_S,
    DIFFERENCE,
    PROCESS_LIST,
    START_S,
    CaseRequest,
    CudaFigures,
    MeasureCase,
    MeasurementProtocol,
    ProcessFigure,
    protocol_of,
    run_case,
    run_watched,
)
from advisor.experiments.validation.predict import CaseConfig, Prepared
from advisor.experiments.validation.records import FORMAT, Kind, Measured, Record
from advisor.hardware.backends import get_backend
from advisor.hardware.backends.cpu import CpuRuntime
from advisor.hardware.nvml import NvmlUnavailable
from advisor.measurement.isolation import Result
from advisor.measurement.noise_probe import reference_seconds
from advisor.measurement.steps import StepRequest
from tests.experiments.validation.records import header, predicted, record

UUID = "GPU-12345678-aaaa"
MIB = 2**20


def request(**changes: object) -> StepRequest:
    execution = ExecutionPlan(2, max_seq_length=16, num_threads=1)
    spec = grid_model("bert-small")
    return dataclasses.replace(
        StepRequest(spec, StrategyConfig("full", 1e-4), execution, 16, steps=2, warmup_steps=1), **changes
    )


class Driver:
    """Stands for NVML: a list of processes or none, and the device's used memory."""

    def __init__(self, listed: list[int] | None, used: list[int]) -> None:
        self._listed, self._used = listed, used

    def process_bytes(self, uuid: str) -> int:
        assert uuid == UUID
        if self._listed is None:
            raise NvmlUnavailable("NVML must show process 7, but it lists none")
        return self._listed.pop(0)

    def used_bytes(self) -> dict[str, int]:
        if not self._used:
            raise NvmlUnavailable("NVML needs the package nvidia-ml-py, but it is not installed")
        return {"another": 5, UUID.removeprefix("GPU-"): self._used.pop(0)}


class Allocator(CpuRuntime):
    """Stands for a card: peaks that grow with every look, and what was asked for in which order."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._looks = 0

    def release_cached(self) -> None:
        self.asked.append("empty")

    def reset_peaks(self) -> None:
        self.asked.append("reset")

    def peaks(self) -> tuple[int | None, int | None]:
        self._looks += 1
        return 100 * MIB + self._looks, 120 * MIB

    def retries(self) -> int:
        return 3 + (1 if self._looks else 0)


def figure(driver: Driver) -> ProcessFigure:
    return ProcessFigure(lambda: UUID, driver.process_bytes, driver.used_bytes)


def test_the_figures_are_read_after_every_step_and_belong_to_the_steps() -> None:
    allocator = Allocator()
    driver = Driver([500 * MIB, 700 * MIB, 900 * MIB, 800 * MIB], [0])
    measured = run_watched(request(), CudaFigures(figure(driver), allocator, allocator.retries))
    assert allocator.asked == ["empty", "reset"]  # what building left behind is gone before the peaks are reset
    figures = measured
    assert figures.allocated_bytes == 100 * MIB + 3
    assert figures.reserved_bytes == 120 * MIB
    assert figures.device_bytes == 900 * MIB
    assert figures.baseline_bytes == 500 * MIB
    assert figures.allocator_retries == 1
    assert figures.reasons["device_bytes"] == PROCESS_LIST
    assert len(measured.step_times_s) == 2
    assert measured.reference_s == ()
    assert measured.trainable_parameters == 12_750_594


def test_hidden_processes_are_measured_by_what_the_device_lost() -> None:
    found = figure(Driver(None, [1000, 1500, 1700]))
    assert (found.read(), found.read()) == (500, 700)
    assert found.reason == DIFFERENCE


def test_without_nvml_there_is_no_figure_but_a_reason() -> None:
    found = figure(Driver(None, []))
    assert found.read() is None
    assert "lists none" in found.reason
    gone = figure(Driver(None, [1000]))
    assert gone.read() is None
    assert "not installed" in gone.reason


def test_on_cpu_the_profiler_and_the_kernel_are_asked() -> None:
    result = MeasureCase("memory", "cpu").measure(CaseRequest(request(profile_memory=True), reference="after"), 120)
    assert result.outcome == "completed"
    assert result.value is not None
    assert len(result.value.reference_s) == 1
    figures = result.value
    assert figures.allocated_bytes is not None
    assert figures.device_bytes is not None
    assert figures.baseline_bytes is not None
    assert 4 * 4 * 12_750_594 <= figures.allocated_bytes < figures.device_bytes  # weights, gradients, two moments
    assert figures.baseline_bytes < figures.device_bytes
    assert figures.reserved_bytes is None
    assert "reserved_bytes" in figures.reasons


def test_the_figures_are_read_outside_the_measured_time(monkeypatch: pytest.MonkeyPatch) -> None:
    read, asked = time.perf_counter, [0]
    monkeypatch.setattr(time, "perf_counter", lambda: read() + 3600 * asked[0])

    class SlowDriver(Driver):
        """Needs an hour by the clock for every answer."""

        def process_bytes(self, uuid: str) -> int:
            asked[0] += 1
            return super().process_bytes(uuid)

    driver = SlowDriver([500 * MIB] * 9, [0])
    measured = run_watched(request(steps=1), CudaFigures(figure(driver), Allocator(), lambda: 0))
    assert asked[0] >= 2
    assert max(measured.step_times_s) < 3600


def test_the_reference_work_load_is_short_and_the_same_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "perf_counter", time.process_time)  # whatever else runs on this machine
    first, second = reference_seconds(get_backend("cpu")), reference_seconds(get_backend("cpu"))
    assert 0.001 < first < 1.0
    assert 0.2 < first / second < 5


def test_what_cannot_be_built_is_an_outcome() -> None:
    flash = ExecutionPlan(2, max_seq_length=16, attn_implementation="flash_attention_2")
    result = MeasureCase("memory", "cpu").measure(CaseRequest(request(execution=flash)), 120)
    assert result.outcome == "refused"
    assert result.error is not None


@pytest.mark.parametrize(
    ("device_type", "reason", "outcome"),
    [
        ("cuda", "it was killed by the system, most likely because the machine ran out of memory", "crashed"),
        ("cuda", "CUDA out of memory. Tried to allocate 2.00 GiB", "out_of_memory"),
        ("cpu", "it was killed by the system, most likely because the machine ran out of memory", "out_of_memory"),
    ],
)
def test_the_hosts_memory_is_not_the_devices(device_type: str, reason: str, outcome: str) -> None:
    ended: Result[Measured] = Result("out_of_memory", reason=reason)
    measure = MeasureCase("memory", device_type, isolate=lambda *args, **options: ended)
    found = measure.measure(CaseRequest(request(device_type=device_type)), None)
    assert found.outcome == outcome
    assert reason in found.reason


VALUE = Measured(MIB, device_bytes=2 * MIB, step_times_s=(0.1, 0.1), trainable_parameters=10)


def cell(key: str, *, step_s: float = 0.0, repeats: int = 0, runnable: bool = True) -> Cell[Prepared]:
    config = CaseConfig(
        grid_model("bert-small"), StrategyConfig("full", 1e-4), ExecutionPlan(2, max_seq_length=16), True
    )
    known = record(key, promised=predicted(MIB, step_s=step_s), outcome="failed" if runnable else "skipped")
    return Cell(key, key, Prepared(dataclasses.replace(known, repeats=repeats), config if runnable else None))


def recorded(kind: Kind, *cells: Cell[Prepared], ended: Result[Measured]) -> tuple[list[CaseRequest], list[Record]]:
    """What the processes were asked for, and the records of the cells; the processes end as given."""
    asked: list[CaseRequest] = []

    def isolate(function: object, asked_for: CaseRequest, timeout_s: float | None) -> Result[Measured]:
        asked.append(asked_for)
        return ended

    with RecordStore(None, header(kind), FORMAT) as store:
        run_cells(cells, MeasureCase(kind, "cpu", isolate), store)
    return asked, list(store.records.values())


def test_a_case_that_ran_is_recorded_with_its_figures() -> None:
    value = dataclasses.replace(VALUE, reference_s=(0.05, 0.06))
    asked, (found,) = recorded("time", cell("a", step_s=0.5, repeats=5), ended=Result("completed", value, wall_s=1.0))
    assert found.outcome == "completed"
    assert found.measured is not None
    assert (found.measured.device_bytes, found.measured.reference_s, found.seconds) == (2 * MIB, (0.05, 0.06), 1.0)
    assert (asked[0].steps.steps, asked[0].steps.warmup_steps) == (5, 2)
    assert (asked[0].steps.profile_memory, asked[0].reference) == (False, "around")


def test_a_process_that_crashed_is_a_case_to_run_again() -> None:
    _, (found,) = recorded("memory", cell("a"), ended=Result("failed", reason="exit code 1"))
    assert (found.outcome, found.reason, found.measured) == ("failed", "exit code 1", None)
    assert not FORMAT.is_final(found)


def test_what_does_not_run_is_recorded_with_its_reason_and_starts_no_process() -> None:
    asked, (found,) = recorded("memory", cell("left out", runnable=False), ended=Result("completed", VALUE))
    assert asked == []
    assert (found.outcome, found.reason) == ("skipped", "for a reason")


@pytest.mark.parametrize(
    ("kind", "device_type", "repeats", "step_s", "expected"),
    [
        ("memory", "cpu", 0, 9.0, MeasurementProtocol(1, 2, True, "never")),
        ("memory", "cuda", 0, 9.0, MeasurementProtocol(1, 2, False, "never")),
        ("time", "cpu", 5, 9.0, MeasurementProtocol(2, 5, False, "around")),
        ("all", "cpu", 5, 9.0, MeasurementProtocol(2, 5, True, "after")),
        ("all", "cpu", 0, 9.0, MeasurementProtocol(1, 2, True, "never")),
        ("all", "cuda", 5, 0.5, MeasurementProtocol(2, 5, False, "after")),
        ("time", "cuda", 5, 2.5, MeasurementProtocol(2, 3, False, "after")),
        ("time", "cpu", 5, 0.05, MeasurementProtocol(2, 15, False, "around")),
    ],
)
def test_steps_and_what_is_read_around_them_follow_the_kind(
    kind: Kind, device_type: str, repeats: int, step_s: float, expected: MeasurementProtocol
) -> None:
    case = cell("a", step_s=step_s, repeats=repeats).payload.record
    assert protocol_of(case, kind, device_type) == expected
    start_s = START_S if get_backend(device_type).is_host else CARD_START_S
    assert MeasureCase(kind, device_type).expected_s(case) == start_s + step_s * expected.all_steps


def test_earlier_records_set_the_pace() -> None:
    earlier = record("done", promised=predicted(MIB, step_s=0.0), allocated_bytes=MIB, seconds=3 * START_S)
    pace = MeasureCase("memory", "cpu").pace([earlier, record("failed", outcome="failed")])
    assert pace.expected_s(Cell("next", "next", None, 10.0)) == pytest.approx(30.0)


@pytest.mark.gpu
def test_on_a_gpu_all_three_figures_are_there_and_in_order() -> None:
    figures = run_case(CaseRequest(request(device_type="cuda")))
    assert figures.allocated_bytes is not None
    assert figures.reserved_bytes is not None
    assert 4 * 4 * 12_750_594 <= figures.allocated_bytes <= figures.reserved_bytes
    if figures.device_bytes is not None:
        assert figures.reserved_bytes < figures.device_bytes


@pytest.mark.gpu
def test_a_limited_allocator_runs_out_of_memory() -> None:
    limited = CaseRequest(request(device_type="cuda"), allocator_limit_bytes=64 * MIB)
    result = MeasureCase("memory", "cuda").measure(limited, 120)
    assert result.outcome == "out_of_memory"
