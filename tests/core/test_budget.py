"""What fits: the smaller of budget and device, each figure at its level, decided in one place."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.core.budget import FIGURES, Budget
from advisor.core.cost import CostEstimate, Interval, MemoryBreakdown, MemoryEstimate, TimeEstimate
from advisor.core.device import DeviceProfile
from advisor.core.serialization import from_dict, to_dict

GIB = 2**30
T4 = DeviceProfile("t4", "T4", "cuda", round(14.6 * GIB))


def cost(memory_bytes: int, total_s: float | None = None, *, required_bytes: int | None = None) -> CostEstimate:
    """Ten per cent more memory and time are inside the intervals."""
    names = {"device_bytes": memory_bytes, "required_bytes": required_bytes}
    intervals = {name: Interval(0.9 * value, 1.1 * value) for name, value in names.items() if value is not None}
    memory = MemoryEstimate(
        memory_bytes, memory_bytes, memory_bytes, MemoryBreakdown(memory_bytes, 0, 0, 0, 0, 0, 0), intervals,
        "backward", "measured", "measured", required_bytes,
    )  # fmt: skip
    time = None
    if total_s is not None:
        interval = {"total_s": Interval(0.9 * total_s, 1.1 * total_s)}
        time = TimeEstimate(1.0, 1.0, 1.0, total_s, interval, {}, "measured", "measured")
    return CostEstimate(memory, time, None, None, 1, 1, "measured", "measured")


def test_a_budget_beyond_the_device_does_not_enlarge_it() -> None:
    fit = Budget(memory_bytes=82 * GIB).check(cost(41 * GIB), T4)
    assert not fit.ok
    assert fit["memory_bytes"].constraint.limit == T4.memory_bytes
    assert fit["memory_bytes"].needed == pytest.approx(1.1 * 41 * GIB, abs=1)


def test_the_upper_bound_of_the_time_decides() -> None:
    run = cost(GIB, 233.0)
    assert not Budget(time_s=244).check(run, T4).ok
    assert Budget(time_s=257).check(run, T4).ok
    assert Budget(time_s=244).check(run, T4)["time_s"].excess == pytest.approx(1.1 * 233 / 244 - 1)
    assert Budget().check(run, T4).needed("time_s") is None, "without a limit there is nothing to compare"


def test_an_unknown_time_breaks_no_bound() -> None:
    assert Budget(time_s=1).check(cost(GIB), T4).ok
    assert Budget(time_s=1).check(cost(GIB), T4).excesses().keys() == {"memory"}


def test_what_the_allocator_can_give_back_does_not_count() -> None:
    run = cost(12 * GIB, required_bytes=6 * GIB)
    assert Budget(memory_bytes=7 * GIB).check(run, T4).ok
    assert not Budget(memory_bytes=6 * GIB).check(run, T4).ok
    assert Budget(memory_bytes=6 * GIB, safety_level=0.5).check(run, T4).ok


@given(st.integers(1, 2**40), st.floats(0.5, 0.999), st.floats(0.5, 0.999))
def test_more_safety_never_makes_a_plan_fit(memory_bytes: int, one: float, other: float) -> None:
    run = cost(memory_bytes)
    low, high = sorted((one, other))
    assert run.memory.quantile_bytes(low) <= run.memory.quantile_bytes(high)
    if Budget(memory_bytes=memory_bytes, safety_level=high).check(run, T4).ok:
        assert Budget(memory_bytes=memory_bytes, safety_level=low).check(run, T4).ok


def test_measured_figures_are_compared_with_the_same_limits() -> None:
    budget = Budget(memory_bytes=GIB, time_s=100)
    assert budget.check_figures({"memory_bytes": GIB, "time_s": 100}, T4).ok
    assert budget.check_figures({"memory_bytes": GIB, "time_s": None}, T4).ok
    assert budget.check_figures({"memory_bytes": 2 * GIB, "time_s": 50}, T4).excesses() == {"memory": 1, "time": -0.5}


def test_every_bounded_field_is_a_constraint() -> None:
    everything = Budget(**{figure.name: 10 for figure in FIGURES})
    assert [item.figure.name for item in everything.constraints(T4)] == [figure.name for figure in FIGURES]
    options = {figure.option for figure in FIGURES}
    assert options == {"--memory", "--time", "--max-latency", "--max-saved-size", "--max-energy"}
    for figure in FIGURES:
        with pytest.raises(ValueError, match=f"{figure.name} > 0 must hold, but got -1"):
            Budget(**{figure.name: -1})


def test_the_budget_of_an_old_plan_is_read() -> None:
    first = {"memory_bytes": 8 * GIB, "time_s": 7200.0, "min_quality": None, "safety_level": 0.95}
    assert from_dict(Budget, first, what="the budget") == Budget(8 * GIB, 7200.0)
    assert to_dict(Budget(8 * GIB, 7200.0)) == first
    assert from_dict(Budget, {}, what="the budget") == Budget()
    later = {"max_latency_s", "max_saved_size_bytes", "max_energy_j"}
    assert {item.name for item in dataclasses.fields(Budget)} == set(first) | later
