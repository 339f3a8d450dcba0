"""The space: what is declared, encoded, cut by a budget, and put first."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.core.budget import Budget
from advisor.core.strategy import StrategyConfig
from advisor.search.study.agenda import Agenda
from advisor.search.study.context import Infeasible, StudyContext
from advisor.search.study.durations import StudyClock
from advisor.search.study.space import BATCH, SearchAxis, Space, axis_of, method_space, shared_axes
from advisor.search.study.storage import StudyStorage
from advisor.search.study.tune import declared_methods
from advisor.strategies import get_strategy
from advisor.strategies.base import CategoricalDimension, FloatDimension, IntDimension
from advisor.strategies.lora import LoraKnobs
from tests.pipeline.test_task_probing import report
from tests.search import study_fakes as fakes


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
    space = Space((method_space(get_strategy(name), fakes.MODEL),), shared_axes(()))
    default = get_strategy(name).default_config(fakes.MODEL)
    found = space.config(space.default_params(name))
    assert dataclasses.replace(found, learning_rate=default.learning_rate) == default
    assert found.learning_rate == pytest.approx(default.learning_rate)


def test_epochs_and_weight_decay_are_searched_unless_they_are_given() -> None:
    space = fakes.declared("lora")
    assert {"num_train_epochs", "weight_decay", "lr_rel"} <= set(space.axes("lora"))
    config = space.config({**space.default_params("lora"), "num_train_epochs": 5, "weight_decay": 0.05})
    assert (config.num_train_epochs, config.weight_decay) == (5.0, 0.05)
    assert [axis.field for axis in shared_axes({"num_train_epochs"})] == ["weight_decay"]


def test_the_batch_moves_by_octaves() -> None:
    assert [Space.batch_size({BATCH: octave}, 32) for octave in (-1, 0, 1)] == [16, 32, 64]
    assert Space.batch_size({}, 32) == 32 and Space.batch_size({BATCH: -1}, 1) == 1


def agenda(ask: StudyContext, space: Space, clock: StudyClock | None = None) -> Agenda:
    study = optuna.create_study()
    return Agenda(ask, space, StudyStorage(study, Path(), 42), clock or StudyClock(1e6))


def test_the_first_trial_of_a_method_fits_even_where_its_default_does_not() -> None:
    ask = setting(Budget(memory_bytes=410 * fakes.MIB))  # the default rank 8 needs 416 MiB
    plans = agenda(ask, fakes.declared("lora"))
    assert plans.start("lora", 1e6) is not None
    config = fakes.declared("lora").config(plans.start_params("lora"))
    assert config.rank is not None and config.rank < 8 and not isinstance(ask.plan(config), Infeasible)


def test_methods_that_do_not_fit_are_skipped_and_the_others_ordered_as_recommend_orders_them() -> None:
    from advisor.search.planner.ranking import expectation, rank

    ask, space = setting(Budget(memory_bytes=600 * fakes.MIB)), fakes.declared()
    plans = agenda(ask, space)
    plans.rank_methods()
    assert list(plans.skipped) == ["full"] and "memory" in plans.skipped["full"]
    found = {method.method: ask.plan(method.default) for method in space.methods if method.method != "full"}
    expected = {
        method.method: expectation(
            ask.cost_model.quality, fakes.MODEL, method.default, fakes.PROFILE, Budget(), ask.effective_batch_size
        )
        for method in space.methods
    }
    ranked = rank(found, expected, ask.cost_model.quality.tie_margin)  # type: ignore[arg-type]
    assert plans.order == [item.plan.strategy.method for item in ranked]


def test_a_classifier_on_frozen_features_runs_first_and_is_not_raced() -> None:
    ask = setting(Budget())
    cheap = dataclasses.replace(fakes.strategies()["head"], fits_frozen_features=True)
    ask = dataclasses.replace(ask, strategies={**fakes.strategies(), "head": cheap})  # type: ignore[arg-type]
    plans = agenda(ask, fakes.declared("head", "lora"))
    plans.rank_methods()
    assert plans.order == ["lora", "head"] and plans.baselines == ["head"]
    for expected in (("head", "default"), ("lora", "recommended"), ("lora", "race")):
        opening = plans.opening({}, 0.0)
        assert opening is not None and (opening[0]["method"], opening[1]) == expected
        plans.storage.enqueue(*opening)


@pytest.mark.parametrize(("probed", "baselines"), [(False, []), (True, ["head"])])
def test_a_classifier_whose_features_are_kept_runs_first_however_long_its_full_run_is(
    probed: bool, baselines: list[str]
) -> None:
    ask = setting(Budget())
    frozen = dataclasses.replace(fakes.strategies()["head"], fits_frozen_features=True)
    ask = dataclasses.replace(ask, strategies={**fakes.strategies(), "head": frozen})  # type: ignore[arg-type]
    if probed:
        ask.cost_model.quality = fakes.PublishedQuality(probe=report(0.7))
    short = StudyClock(10 * fakes.run_s(frozen.config, fakes.TRAIN_ROWS) - 1.0, now=lambda: 0.0)
    plans = agenda(ask, fakes.declared("head", "lora"), short)
    plans.rank_methods()
    assert plans.baselines == baselines and plans.order == ["lora", "head"]


def test_slow_predictions_leave_time_for_trials_and_the_rest_to_later() -> None:
    ticks = iter(range(1000))
    plans = agenda(setting(Budget()), fakes.declared(), StudyClock(30.0, now=lambda: float(next(ticks))))
    plans.rank_methods()
    assert sorted(plans.order) == sorted(method.method for method in fakes.declared().methods)
    assert 1 <= len(plans._starts) < 6 and plans.order[0] in plans._starts


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
