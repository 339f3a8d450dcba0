"""Fits on a machine whose true costs are known, because the test made them up."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.calibration.cross_validation import (
    UNTESTED_RESIDUAL,
    held_out_error,
    held_out_errors,
    residual_relative,
    step_spread,
    transfer_errors,
)
from advisor.calibration.fit import (
    Sample,
    expected_seconds,
    fit_class,
    fit_classes,
    fit_model_ratios,
    fit_resident,
    fit_step,
    step_samples,
)
from advisor.core.coefficients import Calibration, ReplayPoint, StepPoint
from advisor.core.device import DeviceProfile, Rate
from advisor.costmodel.time.device_rates import DeviceRates
from advisor.costmodel.time.operator_times import MOST_BEYOND_RATES, OperatorClock
from advisor.costmodel.time.step import USUAL_HOST_S

DEVICE = DeviceProfile("cpu-x-2c", "x", "cpu", 2**34, basis="measured")
UNKNOWN = DeviceRates(DEVICE)
"""Rates of a device that nobody probed."""


def replay(flops: int, moved: int, seconds: float, key: str = "gemm/float32/mm") -> ReplayPoint:
    return ReplayPoint("mm.default", key, flops, moved, seconds, 0.01)


def products(noise: float = 0.0, seed: int = 0) -> list[ReplayPoint]:
    """20 us a call, 100 GFLOP/s, 20 GB/s."""
    chance = random.Random(seed)
    points = []
    for exponent in range(10, 22):
        flops, moved = 2**exponent * 600, 2**exponent * 4
        seconds = (20e-6 + flops / 1e11 + moved / 2e10) * (1 + chance.gauss(0, noise))
        points.append(replay(flops, moved, seconds))
    return points


def clock_of(points: list[ReplayPoint]) -> OperatorClock:
    classes, operators = fit_classes(points, DeviceRates(DEVICE))
    return OperatorClock(DEVICE, Calibration("cpu-x-2c", {}, "", classes, operators))


def step_point(calls: int, seconds: float, **changes: object) -> StepPoint:
    values: dict[str, object] = {
        "model_key": "m",
        "method": "lora",
        "execution_key": "e",
        "micro_batch_size": calls,
        "seq_length": 64,
        "step_times_s": (seconds,) * 5,
        "work": (("gemm/float32/mm", 600 * 2**16, 2**18, calls),),
    }
    return StepPoint(**{**values, **changes})  # type: ignore[arg-type]


def test_a_class_is_recovered() -> None:
    fit = fit_class(products(), UNKNOWN)
    for flops, moved in ((600 * 2**15, 2**17), (600 * 2**20, 2**22)):
        assert fit.seconds(flops, moved) == pytest.approx(20e-6 + flops / 1e11 + moved / 2e10, rel=0.02)
    assert fit.residual_relative < 0.01
    assert (fit.samples, fit.max_flops) == (12, 600 * 2**21)


def test_a_break_between_cache_and_memory_is_found() -> None:
    points = [replay(0, moved, 5e-6 + min(moved, 2**22) / 4e10 + max(moved - 2**22, 0) / 5e9)
              for moved in (2**10, 2**14, 2**16, 2**18, 2**19, 2**20, 2**21, 2**22, 2**23, 2**24, 2**25)]  # fmt: skip
    fit = fit_class(points, UNKNOWN)
    assert fit.near_bytes == 2**22
    assert fit.seconds(0, 2**26) == pytest.approx(5e-6 + 2**22 / 4e10 + (2**26 - 2**22) / 5e9, rel=0.02)


def test_calls_of_one_batch_leave_to_the_rates_what_they_cannot_tell() -> None:
    """Weights of several sizes at 32 rows: FLOPs and bytes grow together, so any split of the time fits them."""
    probed = dataclasses.replace(DEVICE, flops_per_s={"float32": Rate(2e11, "made up")},
                                 bytes_per_s={"memory": Rate(2e10, "made up")})  # fmt: skip

    def seconds(rows: int, weights: int) -> float:
        return 2 * rows * weights / 1e11 + 4 * weights / 1e10

    few = [replay(64 * weights, 4 * weights, seconds(32, weights)) for weights in (10**5, 4 * 10**5, 10**6, 4 * 10**6)]
    fit = fit_class(few, DeviceRates(probed))
    assert fit.residual_relative < 0.01, "rates say nothing against calls"
    assert fit.seconds(2048 * 10**6, 4 * 10**6) == pytest.approx(seconds(1024, 10**6), rel=0.1)
    blind = fit_class(few, UNKNOWN).seconds(2048 * 10**6, 4 * 10**6)
    assert abs(blind / seconds(1024, 10**6) - 1) > 0.3


def test_many_calls_outweigh_rates_that_are_wrong() -> None:
    wrong = dataclasses.replace(DEVICE, flops_per_s={"float32": Rate(1e12, "made up")},
                                bytes_per_s={"memory": Rate(1e9, "made up")})  # fmt: skip
    fit = fit_class(products(), DeviceRates(wrong))
    for flops, moved in ((600 * 2**15, 2**17), (600 * 2**20, 2**22)):
        assert fit.seconds(flops, moved) == pytest.approx(20e-6 + flops / 1e11 + moved / 2e10, rel=0.02)


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), noise=st.floats(0, 0.5))
def test_no_fit_ever_has_a_negative_cost(seed: int, noise: float) -> None:
    points = products(noise, seed)
    points = [p for p in points if p.median_s > 0]
    fit = fit_class(points, UNKNOWN)
    assert min(fit.overhead_s, fit.s_per_flop, fit.s_per_near_byte, fit.s_per_far_byte) >= 0
    assert fit.seconds(10**12, 10**9) >= fit.seconds(10**11, 10**8) >= 0


def test_operators_with_enough_replays_get_a_fit_of_their_own() -> None:
    slow = [replay(0, 2**n, 1e-4 + 2**n / 1e9, "norm/float32/slow") for n in (12, 16, 20)]
    fast = [replay(0, 2**n, 1e-6 + 2**n / 1e10, "norm/float32/fast") for n in (12, 20)]
    classes, operators = fit_classes([*slow, *fast], DeviceRates(DEVICE))
    assert set(classes) == {"norm/float32"}
    assert set(operators) == {"norm/float32/slow"}
    assert operators["norm/float32/slow"].seconds(0, 2**16) == pytest.approx(1e-4 + 2**16 / 1e9, rel=0.05)


def test_factor_and_host_time_are_recovered_from_steps() -> None:
    clock = clock_of(products())
    one_call = clock.work_seconds(step_point(1, 1.0).work)
    points = [step_point(n, 1.3 * one_call * n + 25e-6 * n * extra, work=work)
              for n, extra, work in (
                  (200, 1, (("gemm/float32/mm", 600 * 2**16, 2**18, 200),)),
                  (400, 3, (("gemm/float32/mm", 600 * 2**16, 2**18, 400), ("none/int/none", 0, 0, 800))),
                  (800, 2, (("gemm/float32/mm", 600 * 2**16, 2**18, 800), ("none/int/none", 0, 0, 800))),
                  (100, 9, (("gemm/float32/mm", 600 * 2**16, 2**18, 100), ("none/int/none", 0, 0, 800))),
              )]  # fmt: skip
    fit = fit_step(step_samples(points, clock))
    assert fit is not None
    assert fit.factor == pytest.approx(1.3, rel=0.03)
    assert fit.host_s_per_operator == pytest.approx(25e-6, rel=0.12), "shrunk a little towards ten microseconds"
    assert fit.residual_relative < 0.05
    assert fit.samples == 4


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_where_host_and_device_overlap_the_larger_one_is_recovered(noise: float) -> None:
    chance = random.Random(4)
    samples = [
        Sample("m", max(1.3 * table_s, 25e-6 * operators) * (1 + chance.gauss(0, noise)), 0.01, table_s, operators)
        for table_s, operators in itertools.product((1e-3, 4e-3, 0.05, 0.3, 2.0), (500, 2000, 8000))
    ]
    fit = fit_step(samples, power=4)
    assert fit is not None
    assert fit.factor == pytest.approx(1.3, rel=0.05)
    assert fit.host_s_per_operator == pytest.approx(25e-6, rel=0.1)
    errors = [abs(expected_seconds(fit, sample) / sample.seconds - 1) for sample in samples]
    assert max(errors) < 0.2, "where both are equal"
    assert statistics.median(errors) < 0.01 + noise
    sums = fit_step(samples)
    assert sums is not None
    assert fit.residual_relative < sums.residual_relative or noise


def test_one_point_still_gives_a_fit() -> None:
    clock = clock_of(products())
    one_call = clock.work_seconds(step_point(1, 1.0).work)
    fit = fit_step(step_samples([step_point(500, 1.5 * one_call * 500)], clock))
    assert fit is not None
    predicted = fit.factor * one_call * 500 + fit.host_s_per_operator * 500
    assert predicted == pytest.approx(1.5 * one_call * 500, rel=0.05)


def test_no_points_give_no_fit() -> None:
    clock = clock_of(products())
    assert fit_step(step_samples([], clock)) is None
    assert held_out_error(held_out_errors(DEVICE, products(), [step_point(1, 1.0)])) is None
    assert residual_relative(()) == UNTESTED_RESIDUAL
    assert fit_resident([]) is None
    assert fit_model_ratios([], None) == {}


def test_points_are_held_back_in_turn() -> None:
    one_call = clock_of(products()).work_seconds(step_point(1, 1.0).work)
    alike = [step_point(n, 1.2 * one_call * n) for n in (100, 200, 400, 300)]
    error = held_out_error(held_out_errors(DEVICE, products(), alike))
    assert error is not None
    assert (error.how, error.samples) == ("cross-validation", 4)
    assert error.worst < 0.05
    strange = [*alike, step_point(350, 2.4 * one_call * 350)]
    errors = held_out_errors(DEVICE, products(), strange)
    assert errors[-1] == pytest.approx(-0.5, abs=0.03), "the others say half of it"


def test_a_step_that_is_held_back_does_not_teach_the_table() -> None:
    work, calls = (("gemm/float32/mm", 600 * 2**16, 2**18, 100),), clock_of(products())
    one_call = calls.work_seconds(step_point(1, 1.0).work)
    alike = [step_point(100, 110 * one_call, work=work, work_s=(one_call,), seq_length=n) for n in range(4)]
    lone = step_point(100, 330 * one_call, work=work, work_s=(3 * one_call,))
    *_, error = held_out_errors(DEVICE, [], [*alike, lone])
    assert error == pytest.approx(110 / 330 - 1, abs=0.05)


def test_repeats_of_one_configuration_are_held_back_together() -> None:
    one_call = clock_of(products()).work_seconds(step_point(1, 1.0).work)
    alike = [step_point(n, 1.2 * one_call * n) for n in (100, 200, 400)]
    twice = [step_point(300, 2.4 * one_call * 300) for _ in range(2)]
    *_, first, second = held_out_errors(DEVICE, products(), [*alike, *twice])
    assert first == pytest.approx(-0.5, abs=0.03), "its twin does not speak for it"
    assert second == first
    assert held_out_errors(DEVICE, products(), twice) == ()


def test_models_speak_for_each_other_as_well_as_they_do() -> None:
    one_call = clock_of(products()).work_seconds(step_point(1, 1.0).work)
    mine = [step_point(n, 1.2 * one_call * n) for n in (100, 200, 400)]
    others = [step_point(n, 1.8 * one_call * n, model_key="slow") for n in (100, 200, 400)]
    assert transfer_errors(DEVICE, products(), mine) == ()
    errors = transfer_errors(DEVICE, products(), [*mine, *others])
    assert errors[0] == pytest.approx(0.5, abs=0.05), "the slow model's steps alone"
    assert errors[-1] == pytest.approx(1.2 / 1.8 - 1, abs=0.05)


def test_calls_of_a_few_bytes_do_not_tell_what_large_ones_take() -> None:
    fast = dataclasses.replace(DEVICE, flops_per_s={"float32": Rate(1e11, "made up")},
                               bytes_per_s={"memory": Rate(1e10, "made up")})  # fmt: skip
    tiny = [replay(0, moved, 4e-6 + moved * 1e-7, "fill/float32/fill") for moved in (4, 8, 16, 32)]
    classes, operators = fit_classes(tiny, DeviceRates(fast))
    clock = OperatorClock(fast, Calibration("cpu-x-2c", {}, "", classes, operators))
    assert clock.seconds_of("fill/float32/fill", 0, 16)[0] == pytest.approx(4e-6 + 16e-7, rel=0.1)
    seconds, covered = clock.seconds_of("fill/float32/fill", 0, 2**24)
    assert covered
    assert seconds == pytest.approx(2**24 / 1e10 * MOST_BEYOND_RATES, rel=0.1), "not 1.7 s"


def test_calls_that_are_all_overhead_do_not_make_large_ones_free() -> None:
    fast = dataclasses.replace(DEVICE, flops_per_s={"float32": Rate(1e11, "made up")},
                               bytes_per_s={"memory": Rate(1e10, "made up")})  # fmt: skip
    launched = [replay(600 * 2**n, 2**n, 8e-6) for n in range(8, 16)]
    classes, operators = fit_classes(launched, DeviceRates(fast))
    clock = OperatorClock(fast, Calibration("cpu-x-2c", {}, "", classes, operators))
    assert clock.seconds_of("gemm/float32/mm", 600 * 2**12, 2**12)[0] == pytest.approx(8e-6, rel=0.05)
    assert clock.seconds_of("gemm/float32/mm", 10**12, 10**9)[0] == pytest.approx(10.0, rel=0.05), "at the probed rate"


def test_a_model_that_is_slower_than_others_gets_a_ratio() -> None:
    clock = clock_of(products())
    one_call = clock.work_seconds(step_point(1, 1.0).work)
    others = [step_point(n, 1.2 * one_call * n) for n in (100, 200, 300, 400, 500)]
    slower = [step_point(n, 1.5 * one_call * n, model_key="slow") for n in (100, 200, 300)]
    samples = step_samples([*others, *slower], clock)
    ratios = fit_model_ratios(samples, fit_step(samples))
    assert ratios["slow"] > 1.05
    assert ratios["m"] < 1.0


def test_the_spread_of_errors_is_told_apart_by_the_hosts_share() -> None:
    chance = random.Random(5)
    shares = [0.01 + 0.9 * (number / 79) ** 3 for number in range(80)]
    points = [step_point(100, 100 * USUAL_HOST_S / share) for share in shares]
    errors = [chance.gauss(0, math.hypot(0.02, 0.3 * share)) for share in shares]
    spread = step_spread(errors, points)
    assert spread is not None
    assert spread.operators == pytest.approx(0.02, rel=0.4)
    assert spread.host == pytest.approx(0.3, rel=0.4)
    assert step_spread(errors[:5], points[:5]) is None
    alike = step_spread([0.1, -0.1] * 10, [step_point(100, 1.0)] * 20)
    assert alike is not None
    assert math.sqrt(alike.variance(0.0025)) == pytest.approx(0.1, rel=0.1)


def test_the_resident_set_follows_weights_and_heap() -> None:
    points = [
        step_point(
            1,
            1.0,
            weights_bytes=weights,
            heap_bytes=heap,
            resident_peak_bytes=round(400e6 + 120e6 + weights + 1.07 * heap),
            baseline_resident_bytes=400_000_000,
        )
        for weights, heap in ((90_000_000, 4_000_000), (90_000_000, 900_000_000), (500_000_000, 200_000_000))
    ]
    in_4_bits = step_point(1, 1.0, method="qlora", weights_bytes=1, heap_bytes=1, resident_peak_bytes=10**12)
    fit = fit_resident([*points, in_4_bits, step_point(1, 1.0, resident_peak_bytes=10**12)])
    assert fit is not None
    assert fit.baseline_bytes == pytest.approx(520e6, rel=0.01)
    assert fit.bytes_per_heap_byte == pytest.approx(1.07, rel=0.01)
    assert fit.residual_relative < 0.01
    assert fit.samples == 3


def test_what_the_heap_grew_to_is_resident() -> None:
    points = [
        step_point(
            1,
            1.0,
            weights_bytes=10**8,
            heap_bytes=10**9,
            resident_peak_bytes=9 * 10**8,
            baseline_resident_bytes=10**8,
        )
    ]
    fit = fit_resident(points)
    assert fit is not None
    assert fit.bytes_per_heap_byte >= 1
    assert fit.baseline_bytes >= 10**8


def test_a_single_replay_is_taken_for_work_and_not_for_overhead() -> None:
    fit = fit_class([replay(10**9, 10**6, 3e-3)], UNKNOWN)
    assert fit.seconds(10**9, 10**6) == pytest.approx(3e-3, rel=0.02)
    assert fit.seconds(10**8, 10**5) < 6e-4
