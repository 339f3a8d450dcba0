"""A call keeps its budget and always leaves a usable plan: slow machine, slow predictions, chance, broken runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from advisor.core.errors import OutputError, RunFailed
from advisor.core.plan import Plan, load_plan
from advisor.core.recommendation import RejectedMethod
from advisor.core.run import Measurement
from advisor.search.study import StudyInterrupted
from tests.search import study_fakes as fakes
from tests.search.study_fakes import FakeCostModel, FakeRunner, Surface, tune


def allowed_s(budget_s: float) -> float:
    return budget_s + max(10.0, 0.1 * budget_s)


class SlowMachine(FakeRunner):
    """A machine on which everything takes so many times as long, and a step that was begun is always ended."""

    def __init__(self, slowness: float, **options: Any) -> None:
        super().__init__(**options)
        self.slowness = slowness

    def __call__(self, plan: Plan, output_dir: Path, *, time_limit_s: float | None, **options: Any) -> Measurement:
        before_s = self.seconds
        limit_s = None if time_limit_s is None else time_limit_s / self.slowness
        answer = super().__call__(plan, output_dir, time_limit_s=limit_s, **options)
        step_s = 0.2 * self.slowness if answer.outcome == "over_time" else 0.0
        self.seconds = before_s + (self.seconds - before_s) * self.slowness + step_s
        return dataclasses.replace(answer, total_s=self.seconds - before_s)

    def solver(self, trace_s: float) -> Callable[..., Plan | RejectedMethod | None]:
        """A planner with a cold cache: the first question about a method takes long, and can be stopped."""
        traced: set[str] = set()

        def solve(request: Any, strategy: Any, cost_model: Any, *, time_limit_s: float | None) -> Any:
            if strategy.method not in traced:
                if time_limit_s is not None and trace_s > time_limit_s:
                    self.seconds += time_limit_s
                    return None
                self.seconds += trace_s
                traced.add(strategy.method)
            return fakes.solve(request, strategy, cost_model)

        return solve


@pytest.mark.parametrize("slowness", [0.5, 3.0, 10.0])
@pytest.mark.parametrize("trace_s", [2.0, 20.0, 300.0])
@pytest.mark.parametrize("budget_s", [2.0, 120.0])
def test_two_minutes_on_a_slow_machine_with_a_cold_cache(
    tmp_path: Path, slowness: float, trace_s: float, budget_s: float
) -> None:
    machine = SlowMachine(slowness)
    result = tune(
        tmp_path / "s", machine, time_budget_s=budget_s, solve=machine.solver(trace_s), cost_model=FakeCostModel(0.7)
    )
    assert machine.seconds <= allowed_s(budget_s)
    assert load_plan(tmp_path / "s" / "plan.json") == result.best
    default = fakes.strategies()["lora"].config
    assert fakes.SURFACE.nll(result.best.strategy, 8100) <= fakes.SURFACE.nll(default, 8100)
    if machine.calls:
        assert machine.calls[0] == ("lora", 8, machine.calls[0][2]), "the recommended method is tried first"
        assert machine.calls[0][2] >= 640


class Onset(Surface):
    """Nothing is learned from fewer rows than this."""

    rows = 2000

    def nll(self, config: Any, train_rows: int) -> float:
        return super().nll(config, train_rows) if train_rows >= self.rows else 0.6931


ONSET = Onset(fakes.SURFACE.levels, fakes.SURFACE.best_rates)


def chance(plan: Plan) -> Measurement | None:
    """Half of the answers are right until the onset."""
    rows = plan.data_profile.train_rows
    if rows >= Onset.rows:
        return None
    metrics = {"eval_loss": 0.6931, "accuracy": 0.5}
    return Measurement("completed", total_s=fakes.run_s(plan.strategy, rows), step_times_s=(0.1,) * 4, metrics=metrics)


def test_trials_move_to_the_rung_on_which_something_is_learned(tmp_path: Path) -> None:
    runner = FakeRunner(respond=chance, surface=ONSET)
    result = tune(tmp_path / "s", runner, time_budget_s=600.0)
    assert [rows < Onset.rows for _, _, rows in runner.calls[:3]] == [True, False, False]
    assert sum(rows < Onset.rows for _, _, rows in runner.calls) == 1, "one run showed that the rung is too short"
    assert result.best_trial is not None
    assert ONSET.nll(result.best.strategy, 8100) < ONSET.nll(fakes.strategies()["lora"].config, 8100)


def test_runs_at_chance_are_no_evidence(tmp_path: Path) -> None:
    result = tune(tmp_path / "s", FakeRunner(respond=chance, surface=ONSET), time_budget_s=40.0)
    assert result.best_trial is None and "onset not reached" in result.best_reason
    assert result.best.strategy == fakes.strategies()["lora"].config
    assert result.final is None


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), OutputError("the disk is full"), RuntimeError("a defect")])
@pytest.mark.parametrize("calls", [1, 4])
def test_every_exit_leaves_the_best_plan_so_far(tmp_path: Path, failure: BaseException, calls: int) -> None:
    plan_file, other = tmp_path / "s" / "plan.json", tmp_path / "best.json"

    def fail(plan: Plan) -> Measurement | None:
        assert load_plan(plan_file).predicted is not None
        if len(runner.calls) < calls:
            return None
        raise failure

    runner = FakeRunner(respond=fail)
    try:
        tune(tmp_path / "s", runner, outputs=[other], time_budget_s=300.0, max_trials=4)
    except (StudyInterrupted, OutputError, RunFailed) as stop:
        if isinstance(stop, StudyInterrupted):
            assert stop.result.best == load_plan(plan_file)
    assert load_plan(plan_file) == load_plan(other)
    best = {1: 1.0, 4: 1 / 3}[calls]  # of the race's first three runs the third is the best
    assert load_plan(plan_file).strategy.lr_rel == pytest.approx(best)


def test_a_plan_is_there_before_anything_is_predicted(tmp_path: Path) -> None:
    seen: list[Plan] = []

    def solve(request: Any, strategy: Any, cost_model: Any, *, time_limit_s: float | None) -> Any:
        seen.append(load_plan(tmp_path / "s" / "plan.json"))
        return fakes.solve(request, strategy, cost_model)

    tune(tmp_path / "s", FakeRunner(), solve=solve, max_trials=1)
    assert seen[0].strategy == fakes.strategies()["lora"].config
    assert seen[0].execution.effective_batch_size == 32 and seen[0].predicted is None


@pytest.mark.parametrize(("budget_s", "measured"), [(162.0, False), (186.0, True)])
def test_the_benchmark_core_of_the_final_run_is_measured_where_there_is_time(
    tmp_path: Path, budget_s: float, measured: bool
) -> None:
    """The run takes 130 s, what is measured behind it 15 s."""
    trials, final = FakeRunner(), FakeRunner()
    result = tune(tmp_path / "s", trials, final_runner=final, max_trials=1, time_budget_s=budget_s)
    assert result.final is not None
    assert final.plans == ([result.best] if measured else [])
    assert (trials.plans[-1] == result.best) is not measured


def test_the_final_run_has_its_time_or_the_reason_is_said(tmp_path: Path) -> None:
    short, long = FakeRunner(), FakeRunner()
    without = tune(tmp_path / "a", short, time_budget_s=120.0)
    with_one = tune(tmp_path / "b", long, time_budget_s=600.0)
    assert without.final is None and "s that are left" in without.final_skipped
    assert with_one.final is not None and with_one.final.plan == with_one.best
    assert long.plans[-1].data == fakes.DATA and not any(plan.data == fakes.DATA for plan in long.plans[:-1])
    assert short.seconds <= 120.0 and long.seconds <= 600.0
