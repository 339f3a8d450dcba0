"""The space: what is declared, encoded, cut by a budget, and put first."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.core.budget import Budget
from advisor.core.strategy import StrategyConfig
from advisor.search.study.context import Infeasible, StudyContext
from advisor.search.study.durations import StudyClock
from advisor.search.study.feasible import feasible_space, warm_start
from advisor.search.study.header import declared_methods
from advisor.search.study.space import SearchAxis, Space, axis_of, method_space
from advisor.strategies import get_strategy
from advisor.strategies.base import CategoricalDimension, FloatDimension, IntDimension
from advisor.strategies.lora import LoraKnobs
from tests.search import study_fakes as fakes

CLOCK = StudyClock(1e6)
ADAPTER = {"rank": 1, "target_modules": "attention"}
CHEAPEST: dict[str, dict[str, Any]] = {"lora": ADAPTER, "hira": ADAPTER, "partial": {"unfrozen_layers": 1}}


def setting(budget: Budget) -> StudyContext:
    return StudyContext(
        fakes.MODEL, fakes.DATA, fakes.PROFILE, fakes.FakeCostModel(), budget, 42, 32, fakes.solve, fakes.strategies()
    )


def test_rank_is_searched_as_an_exponent_of_two() -> None:
    axis = axis_of("rank", IntDimension(1, 64, log=True))
    assert (axis.label, axis.low, axis.high) == ("log2_rank", 0, 6)
    assert [axis.decode(value) for value in range(7)] == [1, 2, 4, 8, 16, 32, 64]


@given(st.integers(0, 8), st.integers(0, 8), st.integers(1, 3))
def test_an_integer_axis_returns_what_it_stored(low: int, width: int, step: int) -> None:
    axis = axis_of("unfrozen_layers", IntDimension(low, low + width, step=step))
    for value in range(low, low + width + 1, step):
        assert axis.decode(axis.encode(value)) == value


@given(st.integers(1, 4096))
def test_a_value_outside_is_moved_inside(rank: int) -> None:
    axis = SearchAxis("rank", low=1, high=4, integer=True, power_of_two=True)
    assert 2 <= axis.decode(axis.encode(rank)) <= 16


def test_choices_keep_tuples_of_module_names() -> None:
    axis = axis_of("target_modules", CategoricalDimension(("attention", ("q", "v"))))  # type: ignore[arg-type]
    assert [axis.decode(axis.encode(value)) for value in ("attention", ("q", "v"))] == ["attention", ("q", "v")]


def test_a_float_axis_keeps_its_scale() -> None:
    assert axis_of("sparsity", FloatDimension(0.1, 0.9, log=True)) == SearchAxis(
        "sparsity", low=0.1, high=0.9, log=True
    )


def test_alpha_follows_the_rank_and_the_rate_follows_lr_rel() -> None:
    space = fakes.declared("lora")
    params = {"method": "lora", "lr_rel": 0.5, "lora.log2_rank": 5, "lora.target_modules": '"all-linear"'}
    config = space.config(params)
    assert config.knobs == LoraKnobs("all-linear", 32, lora_alpha=64)
    assert config.learning_rate == pytest.approx(5e-4)
    assert config.lr_rel == 0.5


@pytest.mark.parametrize("name", ["full", "partial", "head", "lora", "qlora", "ia3"])
def test_the_default_of_a_registered_method_is_a_point_of_its_own_space(name: str) -> None:
    space = Space((method_space(get_strategy(name), fakes.MODEL),))
    default = get_strategy(name).default_config(fakes.MODEL)
    found = space.config(space.methods[0].default_params())
    assert dataclasses.replace(found, learning_rate=default.learning_rate) == default
    assert found.learning_rate == pytest.approx(default.learning_rate)


def test_ranks_are_cut_at_the_largest_that_fits() -> None:
    # lora: 400 MiB + 2 MiB a rank on the cheaper targets
    space, cut = feasible_space(setting(Budget(memory_bytes=440 * fakes.MIB)), fakes.declared("lora"), CLOCK)
    axis = next(axis for axis in space.methods[0].axes if axis.field == "rank")
    assert axis.decode(int(axis.high)) == 16
    assert "rank above 16 does not fit" in cut[0].reason


@given(st.integers(200, 1000))
def test_everything_below_a_cut_fits_and_everything_above_does_not(budget_mib: int) -> None:
    budget = Budget(memory_bytes=budget_mib * fakes.MIB)
    ask = setting(budget)
    declared = fakes.declared()
    space, _ = feasible_space(ask, declared, CLOCK)
    kept = {method.method for method in space.methods}
    for method in declared.methods:
        smallest = method.config(CHEAPEST.get(method.method, {}), 1.0)
        assert (method.method in kept) == (fakes.memory_bytes(smallest) <= budget_mib * fakes.MIB)
    for method in space.methods:
        for axis in (axis for axis in method.axes if axis.integer):
            largest = {**CHEAPEST[method.method], axis.field: axis.decode(int(axis.high))}
            assert fakes.memory_bytes(method.config(largest, 1.0)) <= budget_mib * fakes.MIB


def test_the_first_trial_of_a_method_fits_even_where_its_default_does_not() -> None:
    ask = setting(Budget(memory_bytes=410 * fakes.MIB))  # the default rank 8 needs 416 MiB
    space, _ = feasible_space(ask, fakes.declared("lora"), CLOCK)
    config = space.config(warm_start(ask, space.methods[0]))
    assert not isinstance(ask.plan(config), Infeasible)
    assert config.rank is not None and config.rank < 8


def test_better_methods_come_first_and_cheaper_ones_among_equals() -> None:
    space, _ = feasible_space(setting(Budget()), fakes.declared(), CLOCK)
    assert [method.method for method in space.methods] == ["head", "partial", "ia3", "lora", "hira", "full"]


def test_a_misfit_says_by_how_much_the_budget_is_broken() -> None:
    ask = setting(Budget(memory_bytes=450 * fakes.MIB, time_s=1e6))
    plan = ask.plan(StrategyConfig("full", 5e-5))
    assert isinstance(plan, Infeasible)
    assert plan.constraints == {"memory": pytest.approx(1.0)}


def test_equal_solutions_are_shared_over_learning_rates_only() -> None:
    ask = setting(Budget())
    one, two = ask.plan(StrategyConfig("full", 5e-5)), ask.plan(StrategyConfig("full", 1e-4, lr_rel=2.0))
    assert not isinstance(one, Infeasible) and not isinstance(two, Infeasible)
    assert (one.strategy.learning_rate, two.strategy.learning_rate) == (5e-5, 1e-4)
    assert one.predicted is two.predicted


def test_slow_predictions_leave_time_for_trials() -> None:
    ticks = iter(range(100))
    clock = StudyClock(6.0, now=lambda: float(next(ticks)))
    declared = fakes.declared()
    space, cut = feasible_space(setting(Budget()), declared, clock)
    assert 1 <= len(space.methods) < len(declared.methods)
    assert all("half of the time" in entry.reason for entry in cut)
    assert len(space.methods) + len(cut) == len(declared.methods)


def test_a_study_of_the_first_version_can_be_resumed() -> None:
    """Its search space has the digest that version 1 stored, whose configurations had the knobs of all methods."""
    declared = Space(tuple(method_space(get_strategy(name), fakes.MODEL) for name in ("full", "partial")))
    assert setting(Budget()).identity(declared)["search space"] == "1c59778410e8"


def test_given_knobs_are_not_searched_and_other_methods_do_not_care() -> None:
    lora, full = (method_space(get_strategy(name), fakes.MODEL, {"rank": 4}) for name in ("lora", "full"))
    assert lora.default.rank == 4 and "rank" not in [axis.field for axis in lora.axes]
    assert full == method_space(get_strategy("full"), fakes.MODEL)


def test_a_method_that_needs_a_knob_of_the_user_is_searched_with_one() -> None:
    own = {"peft_config": {"peft_type": "LORA", "r": 4}}
    for knobs, methods in ((own, ["peft"]), ({}, [])):
        ask = dataclasses.replace(setting(Budget()), strategies={"peft": get_strategy("peft")}, knobs=knobs)
        space, unusable = declared_methods(ask)
        assert [method.default.knob("peft_config") for method in space.methods] == [own["peft_config"]] * len(methods)
        assert [entry.reason for entry in unusable] == (
            [] if methods else ["not considered: it needs a PEFT configuration of your own"]
        )
