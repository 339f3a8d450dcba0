"""The prior: where it comes from, what it says, and how often it was right on tables it had not seen."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.core.data import DataProfile
from advisor.core.metrics import ENTITY_F1, PERPLEXITY
from advisor.core.model import ModelSpec
from advisor.core.published_tables import load_tables
from advisor.core.stats import NORMAL_95
from advisor.core.strategy import StrategyConfig
from advisor.costmodel.quality.gaps import GapModel, to_points
from advisor.costmodel.quality.level import LevelModel
from advisor.costmodel.quality.model import QualityModel, default_prior
from advisor.strategies import get_strategy, strategy_names


def spec(parameters: int = 22_700_000, task: str = "sequence-classification", labels: int = 2) -> ModelSpec:
    return ModelSpec("model", "config", task, {}, "bert", parameters, 384, 6, 30522, 512, labels)


def profile(*counts: int, train_rows: int | None = None) -> DataProfile:
    classes = {f"class {index}": count for index, count in enumerate(counts)}
    return DataProfile(train_rows or sum(counts), 1000, (8, 40, 64), 64, 64, 1000, classes)


def strategy(method: str, **knobs) -> StrategyConfig:
    return StrategyConfig(method, 1e-4, knobs=get_strategy(method).knobs(**knobs))


def test_every_point_carries_its_source_and_left_out_rows_say_why():
    tables = load_tables().tables
    assert len({table.id for table in tables}) == len(tables)
    for table in tables:
        assert table.source, table.id
        assert table.licence, table.id
        for row in table.rows:
            assert row.used or row.detail or table.caveat, (table.id, row.method)
            assert row.method in strategy_names()
    assert sum(len(table.rows) for table in tables) >= 75


def test_comparisons_across_backbones_or_batches_are_not_used():
    unused = {(table.id, row.method) for table in load_tables().tables for row in table.rows if not row.used}
    assert {("duke-imdb", "qlora"), ("duke-sst2", "qlora"), ("columbia-sst2", "full")} <= unused


def test_prior_knows_what_the_tables_agree_on():
    gaps = default_prior().gaps
    small = {name: gaps.gap(name, "classification", 66_000_000).mean_points for name in strategy_names()}
    assert small["full"] == 0
    assert small["head"] < -5
    assert abs(small["lora"]) < 1
    assert abs(small["qlora"] - small["lora"]) < 1
    assert small["ia3"] < small["lora"]
    assert small["sparse_lora"] < small["high_rank_lora"]


def test_a_method_without_tables_is_drawn_to_no_difference_with_the_widest_spread():
    gaps = default_prior().gaps
    unknown = gaps.gap("peft", "classification", 66_000_000)
    assert unknown.mean_points == 0
    assert unknown.sd_points > max(gaps.gap(name, "classification", 66_000_000).sd_points for name in ("lora", "hira"))


def test_gaps_cover_tables_of_studies_they_were_not_fitted_on():
    """Leave one study out: 90 % intervals of the differences inside its tables."""
    tables = load_tables()
    inside = total = 0
    for study in {table.study for table in tables.tables}:
        rest = [table for table in tables.tables if table.study != study]
        gaps = GapModel(rest, seed_sd_points=tables.seed_noise.sd_points)
        for table in (table for table in tables.tables if table.study == study):
            rows = [row for row in table.rows if row.used]
            for row in rows[1:]:
                first, other = (gaps.gap(r.method, table.task_type, table.total_parameters) for r in (rows[0], row))
                difference = to_points(row.value, table.metric) - to_points(rows[0].value, table.metric)
                sampling = _sampling_points(table)
                sd = math.hypot(first.sd_points, other.sd_points, sampling)
                inside += abs(difference - (other.mean_points - first.mean_points)) <= NORMAL_95 * sd
                total += 1
    assert total >= 35
    assert inside / total >= 0.85


def test_levels_cover_tasks_they_were_not_fitted_on():
    """Leave one task out: 90 % intervals of the accuracy that full fine-tuning reaches; measured 22 of 23."""
    tables = load_tables()
    known = GapModel(tables.tables, seed_sd_points=tables.seed_noise.sd_points)
    inside = total = 0
    for task in {table.task for table in tables.tables}:
        held_out = [
            table for table in tables.tables
            if table.task == task and table.task_type == "classification" and table.majority_share and table.train_rows
        ]  # fmt: skip
        rest = [table for table in tables.tables if table.task != task]
        if not held_out:
            continue
        levels = LevelModel(rest, GapModel(rest, seed_sd_points=tables.seed_noise.sd_points))
        for table in held_out:
            level = levels.predict(
                majority_share=table.majority_share,
                train_rows=table.train_rows,
                total_parameters=table.total_parameters,
            )
            inside += level.interval.contains(known.level(table.id) / 100)
            total += 1
    assert total >= 20
    assert inside / total >= 0.88


def test_the_prior_alone_covers_what_minilm_reaches_on_the_movie_sentences_and_says_it_is_not_certified():
    model = QualityModel()
    data = profile(1016, 984)
    for method, reached in (("lora", 0.817), ("full", 0.822), ("qlora", 0.814), ("head", 0.727)):
        estimate = model.published(spec(), strategy(method), data)
        assert estimate.interval.contains(reached), method
        assert estimate.basis == "prior"
        assert not estimate.certified
        assert "published tasks" in estimate.reason


def test_a_task_that_nobody_looked_at_has_no_prediction_but_a_probability_of_the_minimum():
    model, data = QualityModel(), profile(5000, 5000)
    estimate = model.estimate(spec(), strategy("lora"), data, min_quality=0.6)
    assert (estimate.value, estimate.interval, estimate.basis) == (None, None, "prior")
    assert estimate.p_at_least == model.published(spec(), strategy("lora"), data, min_quality=0.6).p_at_least
    assert "not known" in estimate.reason and "--evidence" in estimate.reason


def test_only_what_is_known_to_be_worse_stands_back_and_nothing_does_in_short_runs():
    model, many, few = QualityModel(), profile(5000, 5000), profile(320, 320)
    assert model.known_gap(spec(), strategy("head"), many) < -0.02
    assert {model.known_gap(spec(), strategy(method), many) for method in ("full", "lora", "hira", "ia3", "qlora")} == {
        0
    }
    assert model.known_gap(spec(), strategy("head"), few) == 0


def test_fewer_than_three_tasks_tell_no_spread():
    tables = load_tables()
    few = [table for table in tables.tables if table.task in ("SST-2", "IMDB")]
    with pytest.raises(ValueError, match="at least 3"):
        LevelModel(few, GapModel(few, seed_sd_points=1.1))


def test_a_lora_given_through_peft_counts_as_lora():
    model, data = QualityModel(), profile(500, 500)
    own = model.published(spec(), strategy("lora"), data)
    through = model.published(spec(), strategy("peft", peft_config={"peft_type": "LORA"}), data)
    other = model.published(spec(), strategy("peft", peft_config={"peft_type": "VERA"}), data)
    assert through.value == own.value
    assert other.interval.half_width > own.interval.half_width


def test_perplexity_is_not_promised_from_the_prior():
    estimate = QualityModel().estimate(spec(task="causal-lm"), strategy("lora"), profile(), min_quality=20.0)
    assert (estimate.metric, estimate.value, estimate.interval, estimate.p_at_least) == (PERPLEXITY, None, None, None)
    assert "text" in estimate.reason


def test_a_task_that_no_published_comparison_resembles_is_not_predicted() -> None:
    estimate = QualityModel().estimate(spec(task="token-classification"), strategy("lora"), profile())
    assert (estimate.metric, estimate.value, estimate.interval) == (ENTITY_F1, None, None)
    assert "classifying tokens" in estimate.reason


@given(
    st.integers(10_000_000, 70_000_000_000),
    st.lists(st.integers(20, 100_000), min_size=2, max_size=20),
    st.sampled_from(["full", "partial", "head", "lora", "hira", "qlora", "ia3", "peft"]),
    st.floats(0, 1),
)
def test_intervals_are_sane_for_any_model_and_classes(parameters, counts, method, minimum):
    data = profile(*counts)
    estimate = QualityModel().published(
        spec(parameters, labels=len(counts)), strategy(method), data, min_quality=minimum
    )  # fmt: skip
    low, high = estimate.interval.low, estimate.interval.high
    assert 0 <= low <= estimate.value <= high <= 1
    assert estimate.value >= data.majority_share - 1e-9 or estimate.value == 0.995
    assert 0 <= estimate.p_at_least <= 1
    if minimum <= low:
        assert estimate.p_at_least >= 0.94
    if minimum >= high and high < 1:
        assert estimate.p_at_least <= 0.06


def test_more_is_less_likely():
    model, data = QualityModel(), profile(500, 500)
    chances = [model.estimate(spec(), strategy("lora"), data, min_quality=m / 20).p_at_least for m in range(21)]
    assert chances == sorted(chances, reverse=True)


def _sampling_points(table) -> float:
    if table.eval_items is None or table.metric != "accuracy":
        return 0.0
    share = table.rows[0].value / 100
    return math.sqrt(2 * 1e4 * share * (1 - share) / table.eval_items)
