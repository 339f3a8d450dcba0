"""Every promised figure gets a verdict, and only what was measured."""

import dataclasses

import pytest

from advisor.core.benchmark import Benchmark, MeasuredFigure
from advisor.core.cost import Interval
from advisor.core.metrics import ACCURACY
from advisor.core.run import Measurement, Verification
from advisor.reporting.verification import verify
from tests.core.records import MIB, cost_estimate, make_plan, measurement


def verdicts(plan=None, measured: Measurement | None = None, **options: bool) -> dict[str, Verification]:
    found = verify(plan or make_plan(), measured or measurement(), **options)
    return {verification.quantity: verification for verification in found}


def test_everything_promised_is_verified() -> None:
    found = verdicts()
    assert set(found) == {
        "memory.allocated_bytes",
        "memory.device_bytes",
        "time.step_s",
        "time.total_s",
        "quality.value",
        "trainable_parameters",
    }
    assert {item.verdict for item in found.values()} == {"inside"}


def test_errors_are_relative_to_what_was_measured() -> None:
    found = verdicts()
    assert found["memory.allocated_bytes"].relative_error == pytest.approx(100 / 101 - 1)
    assert found["time.step_s"].measured == pytest.approx(0.51)  # the median: the slow first step does not count
    assert found["quality.value"].relative_error == pytest.approx(-0.02)  # points, not a ratio


def test_figures_outside_their_interval_are_called_so() -> None:
    measured = measurement(
        allocated_peak_bytes=103 * MIB, device_peak_bytes=549 * MIB, total_s=75.1, trainable_parameters=999
    )
    found = verdicts(measured=measured)
    outside = {name for name, item in found.items() if item.verdict == "outside"}
    assert outside == {"memory.allocated_bytes", "memory.device_bytes", "time.total_s", "trainable_parameters"}


def test_what_was_not_measured_is_not_judged() -> None:
    found = verdicts(measured=Measurement(outcome="out_of_memory", device_peak_bytes=2**31))
    assert found["memory.device_bytes"].verdict == "outside"
    for name in ("memory.allocated_bytes", "time.step_s", "time.total_s", "quality.value"):
        assert found[name].verdict == "not measured"
        assert found[name].relative_error is None
    assert "trainable_parameters" not in found


def test_a_resumed_run_has_no_total_time() -> None:
    found = verdicts(resumed=True)
    assert found["time.total_s"].verdict == "not measured"
    assert found["time.step_s"].verdict == "inside"


def test_a_run_that_stopped_early_has_no_total_time() -> None:
    plan = make_plan(predicted=cost_estimate())
    patient = plan.strategy.replaced(load_best_model_at_end=True, early_stopping_patience=1)
    found = verdicts(dataclasses.replace(plan, strategy=patient), measurement(step_times_s=(0.1, 0.1)))
    assert found["time.total_s"].verdict == "not measured"
    assert verdicts(plan, measurement(step_times_s=(0.1, 0.1)))["time.total_s"].verdict != "not measured"


def test_speed_of_inference_and_energy_are_judged_where_they_were_measured() -> None:
    evaluated = measurement(evaluation_s=4.0, metric_history=((57, {"accuracy": 0.8}),), energy_j=4000.0)
    found = verdicts(measured=evaluated)
    assert found["time.inference.samples_per_s"].measured == pytest.approx(100 / 4.0)
    assert found["time.inference.samples_per_s"].relative_error == pytest.approx(20 / 25 - 1)
    assert "time.energy_j" not in found, "nothing was promised"
    promised = cost_estimate()
    assert promised.time is not None
    time = dataclasses.replace(
        promised.time, energy_j=5000.0, intervals={**promised.time.intervals, "energy_j": Interval(3000.0, 8000.0)}
    )
    plan = make_plan(predicted=cost_estimate(time=time))
    assert verdicts(plan, evaluated)["time.energy_j"].verdict == "inside"
    assert "time.energy_j" not in verdicts(plan, measurement()), "nothing was measured"


def test_latency_and_saved_size_are_judged_where_they_were_measured() -> None:
    predicted = cost_estimate(saved_bytes=900, saved_interval=Interval(900, 1000))
    assert predicted.time is not None
    intervals = predicted.time.intervals | {
        "latency_s": Interval(0.002, 0.006), "merged_latency_s": Interval(0.001, 0.004)
    }  # fmt: skip
    time = dataclasses.replace(predicted.time, latency_s=0.004, merged_latency_s=0.003, intervals=intervals)
    plan = make_plan(predicted=dataclasses.replace(predicted, time=time))
    assert {"time.latency_s", "saved_bytes"}.isdisjoint(verdicts(plan))
    figures = {
        "inference_batch_1_latency_s": MeasuredFigure(0.005),
        "merged_inference_batch_1_latency_s": MeasuredFigure(0.0045),
        "saved_bytes": MeasuredFigure(950),
    }
    found = verdicts(plan, measurement(benchmark=Benchmark(efficiency=figures)))
    judged = {name: found[name].verdict for name in ("time.latency_s", "time.merged_latency_s", "saved_bytes")}
    assert judged == {"time.latency_s": "inside", "time.merged_latency_s": "outside", "saved_bytes": "inside"}
    assert found["time.latency_s"].relative_error == pytest.approx(0.004 / 0.005 - 1)


def test_reserved_memory_counts_where_there_is_an_allocator() -> None:
    assert verdicts(measured=measurement(reserved_peak_bytes=99 * MIB))["memory.reserved_bytes"].verdict == "inside"


def test_a_plan_without_promises_verifies_nothing() -> None:
    assert verify(make_plan(predicted=None), measurement()) == ()


def test_abstaining_from_quality_promises_nothing() -> None:
    estimate = cost_estimate()
    assert estimate.quality is not None
    abstained = cost_estimate(
        quality=type(estimate.quality)(ACCURACY, None, None, None, False, "?", "extrapolated", "prior")
    )
    assert "quality.value" not in verdicts(make_plan(predicted=abstained))


def test_the_ends_of_an_interval_are_inside() -> None:
    assert Interval(1.0, 2.0).contains(2.0)
    assert verdicts(measured=measurement(total_s=75.0))["time.total_s"].verdict == "inside"
