"""Timing, against a clock that the test controls."""

from __future__ import annotations

import pytest

from advisor.hardware.timing import ClockError, summarise, time_call


class Clock:
    def __init__(self) -> None:
        self.now = 0.0
        self.calls = 0

    def __call__(self) -> float:
        return self.now

    def work(self, seconds: float) -> None:
        self.now += seconds
        self.calls += 1


def test_short_work_is_repeated_inside_a_sample() -> None:
    clock = Clock()
    timing = time_call(lambda: clock.work(1e-5), budget_s=0.05, clock=clock, target_s=1e-3)
    assert timing.median_s == pytest.approx(1e-5)
    assert timing.spread == pytest.approx(0, abs=1e-6)
    assert clock.calls > 1000


def test_the_budget_is_kept() -> None:
    clock = Clock()
    time_call(lambda: clock.work(0.01), budget_s=1.0, clock=clock)
    assert 1.0 <= clock.now <= 1.03


def test_work_longer_than_the_budget_is_still_repeated() -> None:
    clock = Clock()
    timing = time_call(lambda: clock.work(5.0), budget_s=1.0, clock=clock)
    assert len(timing.samples_s) == 2
    assert timing.median_s == 5.0


def test_a_straggler_moves_the_spread_and_not_the_median() -> None:
    timing = summarise([1.0, 1.0, 1.0, 1.0, 50.0])
    assert timing.median_s == 1.0
    uneven = summarise([1.0, 1.2, 1.4, 1.6, 1.8])
    assert uneven.spread > 0.15


def test_the_device_is_waited_for() -> None:
    clock, waits = Clock(), []

    def synchronize() -> None:
        waits.append(clock.now)
        clock.now += 0.5

    timing = time_call(lambda: clock.work(1e-6), budget_s=3.0, clock=clock, synchronize=synchronize)
    assert timing.median_s > 0.4
    assert len(waits) >= 5


class JumpingClock(Clock):
    """Leaps by the given seconds at the given readings."""

    def __init__(self, leaps: dict[int, float]) -> None:
        super().__init__()
        self.leaps = leaps
        self.readings = 0

    def __call__(self) -> float:
        self.readings += 1
        self.now += self.leaps.get(self.readings, 0.0)
        return self.now


@pytest.mark.parametrize("leap", [-3600.0, -1e-3, 0.5, 100.0, 5e3, 1e9])
@pytest.mark.parametrize("reading", [2, 4, 5, 6, 8, 11])
def test_a_clock_that_leaps_once_changes_neither_median_nor_spread(leap: float, reading: int) -> None:
    clock = JumpingClock({reading: leap})
    timing = time_call(lambda: clock.work(0.002), budget_s=0.1, clock=clock)
    assert timing.median_s == pytest.approx(0.002, rel=0.51)
    assert timing.spread < 0.3
    assert len(timing.samples_s) >= 5
    assert clock.calls < 1000, "a leap must not prolong the sampling"


def test_two_samples_have_a_spread_too() -> None:
    assert summarise([0.9, 1.1]).spread == pytest.approx(0.1)
    assert summarise([1.0]).spread == 0.0


def test_samples_that_go_backwards_are_dropped_and_counted() -> None:
    clock = JumpingClock(dict.fromkeys((8, 12, 16), -60.0))
    timing = time_call(lambda: clock.work(0.002), budget_s=0.1, clock=clock)
    assert timing.lost == 3
    assert all(sample > 0 for sample in timing.samples_s)
    assert timing.median_s == pytest.approx(0.002)


def test_one_sample_a_hundred_times_the_others_is_no_noise() -> None:
    timing = summarise([1.0, 1.01, 0.99, 1.0, 100.0, 1.0])
    assert timing.median_s == 1.0
    assert timing.spread < 0.02


def test_work_longer_than_the_budget_that_disagrees_is_repeated() -> None:
    clock = JumpingClock({4: 500.0})
    timing = time_call(lambda: clock.work(5.0), budget_s=1.0, clock=clock)
    assert len(timing.samples_s) >= 5
    assert timing.median_s == pytest.approx(5.0)


def test_a_clock_that_stands_still_is_refused_and_does_not_hang() -> None:
    calls = []
    with pytest.raises(ClockError, match="stood still"):
        time_call(lambda: calls.append(1), budget_s=0.1, clock=lambda: 7.0)
    assert len(calls) < 10**6
