"""How many threads to train with: candidates, comparison and choice, against clocks and hosts of the test."""

from __future__ import annotations

import pytest

from advisor.hardware.host import Host
from advisor.hardware.threads import candidates, choose_threads, compare, decide
from advisor.hardware.timing import CFS_PERIOD_S, ClockError


def host(cores: int, physical: int, quota: float | None = None) -> Host:
    reasons = {"cores": f"cgroup quota of {quota} cores", "memory_bytes": "", "vector_flags": ""}
    return Host(cores, quota, 2**34, 2**33, "Example", (), reasons, physical)


@pytest.mark.parametrize(
    ("cores", "physical", "expected"),
    [(1, 1, (1,)), (2, 2, (1, 2)), (2, 1, (1, 2)), (6, 3, (1, 2, 3, 4, 6)), (12, 12, (1, 2, 4, 8, 12))],
)
def test_candidates_are_powers_of_two_physical_and_all_cores(
    cores: int, physical: int, expected: tuple[int, ...]
) -> None:
    assert candidates(host(cores, physical)) == expected


def test_half_a_core_trains_with_one_thread_without_measuring() -> None:
    choice = choose_threads(host(1, 1, 0.5), budget_s=0.0)
    assert choice.threads == 1
    assert "0.5" in choice.reason


def test_a_busy_machine_is_not_measured() -> None:
    choice = choose_threads(host(8, 4), budget_s=0.0, load="load 31.5 on 8 CPUs")
    assert choice.threads == 4
    assert "load 31.5" in choice.reason


class Machine:
    """A machine on which a step takes a time that depends on the thread count, plus what the test adds."""

    def __init__(self, seconds: dict[int, float]) -> None:
        self.seconds = seconds
        self.now = 0.0
        self.threads = 0
        self.steps = 0
        self.order: list[int] = []

    def clock(self) -> float:
        return self.now

    def set_threads(self, count: int) -> None:
        self.threads = count
        self.order.append(count)

    def step(self) -> None:
        self.steps += 1
        self.now += self.seconds[self.threads]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({1: 0.4, 2: 0.2, 4: 0.15}, 4),
        ({1: 0.4, 2: 0.2, 4: 0.3}, 2),
        ({1: 0.2, 2: 0.2, 4: 0.5}, 1),
        ({1: 0.2, 2: 0.198, 4: 0.5}, 1),
    ],
)
def test_the_fastest_count_wins_and_fewer_threads_win_a_tie(seconds: dict[int, float], expected: int) -> None:
    machine = Machine(seconds)
    times = compare(tuple(seconds), [machine.step], machine.set_threads, budget_s=5.0, clock=machine.clock)
    choice = decide(times)
    assert choice.threads == expected
    assert all(f"{count}: " in choice.reason for count in seconds)


def test_rounds_alternate_so_that_a_drift_meets_all_counts() -> None:
    machine = Machine({1: 0.1, 2: 0.1})
    compare((1, 2), [machine.step], machine.set_threads, budget_s=0.0, clock=machine.clock)
    assert machine.order == [1, 2, 2, 1, 1, 2]


def test_one_disturbed_round_decides_nothing() -> None:
    machine = Machine({1: 0.2, 2: 0.1})

    def step() -> None:
        machine.step()
        machine.now += 5.0 if machine.steps in (4, 5) else 0.0

    choice = decide(compare((1, 2), [step], machine.set_threads, budget_s=0.0, clock=machine.clock))
    assert choice.threads == 2


def test_under_a_quota_a_sample_spans_refill_periods() -> None:
    machine = Machine({1: 0.01, 2: 0.01})
    compare((1, 2), [machine.step], machine.set_threads, budget_s=0.0, least_s=2 * CFS_PERIOD_S, clock=machine.clock)
    assert machine.now >= 6 * 2 * CFS_PERIOD_S


def test_a_clock_of_no_use_is_refused() -> None:
    machine = Machine({1: -0.1, 2: -0.1})
    with pytest.raises(ClockError):
        compare((1, 2), [machine.step], machine.set_threads, budget_s=1.0, clock=machine.clock)
