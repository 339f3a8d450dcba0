"""Timing, against a clock that the test controls."""

from __future__ import annotations

import pytest

from advisor.hardware.timing import summarise, time_call


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
