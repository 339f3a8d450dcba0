"""Short runs: what is bought, what is made of it, and whether the interval holds on curves with a known end."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.calibration.evidence import diverged, gather_evidence
from advisor.core.cost import CostEstimate, Interval, MemoryBreakdown, MemoryEstimate, TimeEstimate
from advisor.core.data import DataProfile, DataSpec
from advisor.core.errors import InterruptedByUser, RunFailed
from advisor.core.metrics import PERPLEXITY
from advisor.core.model import ModelSpec
from advisor.core.plan import ExecutionPlan, Plan
from advisor.core.run import Measurement
from advisor.core.serialization import from_dict, to_dict
from advisor.core.strategy import StrategyConfig
from advisor.costmodel.quality.evidence import EvidenceRun, QualityEvidence
from advisor.costmodel.quality.model import QualityModel
from advisor.strategies import get_strategy

ROWS, EVAL_ROWS = 4000, 1000


def spec(task: str = "sequence-classification") -> ModelSpec:
    return ModelSpec("model", "config", task, {}, "bert", 22_700_000, 384, 6, 30522, 512)


def profile(rows: int = ROWS) -> DataProfile:
    return DataProfile(rows, EVAL_ROWS, (8, 40, 64), 64, 64, 1000, {"neg": rows // 2, "pos": rows - rows // 2})


def strategy(method: str = "lora") -> StrategyConfig:
    return StrategyConfig(method, 1e-4, num_train_epochs=2, knobs=get_strategy(method).knobs())


def plan(method: str = "lora", *, step_s: float = 0.3, rows: int = ROWS, task: str = "sequence-classification") -> Plan:
    time = TimeEstimate(step_s, 32 / step_s, 0, 100.0, {}, {}, "interpolated", "calibrated")
    memory = MemoryEstimate(
        1,
        1,
        7,
        MemoryBreakdown(1, 1, 1, 1, 1, 1, 1),
        {"device_bytes": Interval(6, 8)},
        "backward",
        "extrapolated",
        "prior",
    )
    cost = CostEstimate(memory, time, None, True, 1, 2, "interpolated", "calibrated")
    data = DataSpec("sentences.csv", "csv", label_column="label")
    return Plan(spec(task), data, profile(rows), strategy(method), ExecutionPlan(16, 2), "cpu", predicted=cost)


def run(method: str, rows: int, loss: float, accuracy: float | None, **changes) -> EvidenceRun:
    made = EvidenceRun(strategy(method), rows, ROWS, 500, loss, accuracy, 20.0, "completed")
    return replace(made, **changes)


def evidence(*runs: EvidenceRun) -> QualityEvidence:
    return QualityEvidence(runs, "rows", EVAL_ROWS, 60.0, 90.0)


class Curve:
    """A known truth: loss falls as a power of the rows, error follows the loss, runs have their seed's noise."""

    def __init__(self, seed: int, *, end: float, slope: float, gamma: float) -> None:
        self.random, self.end, self.slope, self.gamma = random.Random(seed), end, slope, gamma
        self.end_loss = math.log(2) * ((1 - end) / 0.5) ** (1 / gamma)

    def loss(self, rows: int) -> float:
        return min(self.end_loss * (rows / ROWS) ** -self.slope, 0.99 * math.log(2))

    def accuracy(self, rows: int, items: int) -> float:
        mean = 1 - 0.5 * (self.loss(rows) / math.log(2)) ** self.gamma + self.random.gauss(0, 0.011)
        return sum(self.random.random() < mean for _ in range(items)) / items

    def run(self, method: str, rows: int) -> EvidenceRun:
        loss = self.loss(rows) * math.exp(self.random.gauss(0, 0.02))
        return run(method, rows, loss, self.accuracy(rows, 500))


def test_bought_runs_narrow_the_interval_below_eight_points_and_cover_the_end():
    curve = Curve(1, end=0.82, slope=0.12, gamma=1.9)
    bought = evidence(curve.run("lora", 500), curve.run("lora", 1000))
    prior = QualityModel().published(spec(), strategy(), profile())
    estimate = QualityModel(evidence=bought).estimate(spec(), strategy(), profile(), min_quality=0.78)
    assert prior.interval.half_width > 0.08
    assert estimate.interval.half_width <= 0.08
    assert estimate.interval.contains(0.82)
    assert estimate.p_at_least > 0.5
    assert (estimate.evidence, estimate.basis) == ("extrapolated", "measured")
    assert "500, 1000 of 4000 rows" in estimate.reason


@pytest.mark.parametrize(("rows", "width"), [((500, 1000), 0.09), ((1000, 2000), 0.07)])
def test_ninety_percent_intervals_hold_on_synthetic_curves(rows, width):
    rng, inside, widths, tries = random.Random(7), 0, [], 300
    for seed in range(tries):
        slope, gamma = max(rng.gauss(0.12, 0.08), 0.0), rng.uniform(1.2, 2.4)
        curve = Curve(seed, end=rng.uniform(0.7, 0.95), slope=slope, gamma=gamma)
        model = QualityModel(evidence=evidence(*(curve.run("lora", count) for count in rows)))
        estimate = model.estimate(spec(), strategy(), profile())
        inside += estimate.interval.contains(curve.accuracy(ROWS, EVAL_ROWS))
        widths.append(estimate.interval.half_width)
    assert inside / tries >= 0.87
    assert sorted(widths)[int(0.9 * tries)] <= width


def test_evidence_on_one_method_shifts_the_level_for_the_others():
    low = evidence(run("lora", 500, 0.60, 0.66), run("lora", 1000, 0.57, 0.69))
    prior, shifted = QualityModel(), QualityModel(evidence=low)
    own = shifted.estimate(spec(), strategy("lora"), profile())
    other = shifted.estimate(spec(), strategy("full"), profile())
    assert other.value < prior.published(spec(), strategy("full"), profile()).value - 0.05
    assert other.interval.half_width > own.interval.half_width
    assert other.basis == "transferred"
    head = shifted.estimate(spec(), strategy("head"), profile())
    assert head.value < own.value


def test_own_runs_overrule_the_prior_order():
    bought = evidence(
        run("lora", 500, 0.62, 0.65), run("lora", 1000, 0.60, 0.67),
        run("partial", 500, 0.45, 0.79), run("partial", 1000, 0.43, 0.81),
    )  # fmt: skip
    model = QualityModel(evidence=bought)
    assert (
        model.estimate(spec(), strategy("partial"), profile()).value
        > model.estimate(spec(), strategy(), profile()).value
    )


def test_it_abstains_where_the_run_diverged_and_ignores_failed_runs():
    bad = run("lora", 500, 0.9, 0.5, diverged=True)
    estimate = QualityModel(evidence=evidence(bad)).estimate(spec(), strategy(), profile())
    assert estimate.value is None
    assert "diverged" in estimate.reason
    failed = run("lora", 500, 0.4, 0.8, outcome="out_of_memory")
    untouched = QualityModel(evidence=evidence(failed)).estimate(spec(), strategy(), profile())
    assert untouched.basis == "prior"


def test_perplexity_comes_from_runs_and_is_transferred_with_a_wider_interval():
    bought = evidence(run("lora", 500, 3.5, None), run("lora", 1000, 3.4, None))
    model = QualityModel(evidence=bought)
    own = model.estimate(spec("causal-lm"), strategy("lora"), profile(), min_quality=1000.0)
    assert own.metric is PERPLEXITY
    assert math.exp(2.9) < own.value < math.exp(3.4)
    assert own.interval.contains(own.value)
    assert own.p_at_least > 0.99  # a perplexity of at most 1000 is reached
    other = model.estimate(spec("causal-lm"), strategy("full"), profile())
    assert other.interval.half_width / other.value > own.interval.half_width / own.value


@settings(max_examples=80)
@given(
    st.lists(
        st.tuples(st.sampled_from([250, 500, 1000, 4000]), st.floats(0.01, 5), st.floats(0, 1)), min_size=1, max_size=5
    ),
    st.sampled_from(["lora", "full", "head"]),
)
def test_no_evidence_breaks_the_interval(rows, method):
    bought = evidence(*(run("lora", count, loss, accuracy) for count, loss, accuracy in rows))
    estimate = QualityModel(evidence=bought).estimate(spec(), strategy(method), profile(), min_quality=0.8)
    assert 0 <= estimate.interval.low <= estimate.value <= estimate.interval.high <= 1
    assert 0 <= estimate.p_at_least <= 1


# --- buying ---------------------------------------------------------------------------------------------------------


class Measured:
    """Stands in for a real run: answers from a curve, remembers what it was asked."""

    def __init__(self, curve: Curve | None = None, *, outcome: str = "completed") -> None:
        self.curve, self.outcome, self.plans = curve or Curve(3, end=0.82, slope=0.12, gamma=1.9), outcome, []

    def __call__(self, short: Plan, limit_s: float) -> Measurement:
        self.plans.append(short)
        if self.outcome != "completed":
            return Measurement(self.outcome, "killed")
        rows = short.data.max_train_rows
        metrics = {"accuracy": self.curve.accuracy(rows, 500), "eval_loss": self.curve.loss(rows)}
        return Measurement("completed", training_s=0.0, metrics=metrics, train_losses=((1, 0.7), (2, 0.6), (3, 0.5)))


def test_prefixes_are_nested_and_share_seed_and_held_out_items():
    measured = Measured()
    bought = gather_evidence([plan("lora"), plan("full")], budget_s=100, measure=measured)
    rows = sorted({short.data.max_train_rows for short in measured.plans})
    assert rows == [ROWS // 8, ROWS // 4]
    assert {short.data.max_eval_rows for short in measured.plans} == {500}
    assert {short.seed for short in measured.plans} == {42}
    assert {short.strategy.num_train_epochs for short in measured.plans} == {2}
    assert bought.methods == ("lora", "full")
    assert bought.target_eval_rows == EVAL_ROWS
    assert all(item.target_train_rows == ROWS for item in bought.runs)


@pytest.mark.parametrize("budget_s", [20.0, 60.0, 90.0])
def test_the_expected_time_of_all_runs_stays_inside_the_budget(budget_s):
    measured = Measured()
    contenders = [plan(method, step_s=0.3) for method in ("lora", "full", "partial")]
    gather_evidence(contenders, budget_s=budget_s, measure=measured)
    steps = sum(short.data.max_train_rows * 2 / 32 for short in measured.plans)
    assert len({short.strategy.method for short in measured.plans}) >= 1
    assert len(measured.plans) >= 2
    assert steps * 0.3 <= budget_s


def test_failures_are_kept_as_data_and_ctrl_c_is_not_swallowed():
    bought = gather_evidence([plan()], budget_s=100, measure=Measured(outcome="out_of_memory"))
    assert {item.outcome for item in bought.runs} == {"out_of_memory"}
    assert bought.methods == ()

    def crash(short: Plan, limit_s: float) -> Measurement:
        raise RunFailed("the run crashed")

    bought = gather_evidence([plan()], budget_s=100, measure=crash)
    assert {item.outcome for item in bought.runs} == {"failed"}
    assert bought.runs[0].reason == "the run crashed"

    def interrupt(short: Plan, limit_s: float) -> Measurement:
        raise InterruptedByUser("stopped")

    with pytest.raises(InterruptedByUser):
        gather_evidence([plan()], budget_s=100, measure=interrupt)


def test_nothing_is_bought_without_a_budget_or_plans():
    measured = Measured()
    assert gather_evidence([plan()], budget_s=0, measure=measured).runs == ()
    assert gather_evidence([], budget_s=60, measure=measured).runs == ()
    assert measured.plans == []


def test_progress_is_told_before_every_run():
    seen = []
    gather_evidence([plan()], budget_s=500, measure=Measured(), on_progress=seen.append)
    assert [event["rows"] for event in seen] == [ROWS // 4, ROWS // 2]
    assert {event["kind"] for event in seen} == {"evidence"}
    assert seen[-1]["total"] == 2


def test_divergence_is_seen_in_the_training_loss():
    falling = [(step, 0.7 - 0.01 * step) for step in range(12)]
    rising = [(step, 0.7 + 0.1 * step) for step in range(12)]
    assert not diverged(falling)
    assert not diverged([])
    assert diverged(rising)
    assert diverged([(1, 0.7), (2, math.nan)])


def test_evidence_survives_being_written_and_read():
    bought = gather_evidence([plan()], budget_s=500, measure=Measured())
    assert from_dict(QualityEvidence, to_dict(bought), what="evidence") == bought
