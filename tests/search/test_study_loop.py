"""A whole study on fakes: what is started, told, kept, and when it stops."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from advisor.core.budget import Budget
from advisor.core.errors import BudgetError, InputError, InterruptedByUser, NothingFitsError, OutputError, RunFailed
from advisor.core.plan import Plan, load_plan
from advisor.core.run import Measurement
from advisor.search.study import StudyInterrupted, TuneResult
from tests.search import study_fakes as fakes
from tests.search.study_fakes import MIB, FakeCostModel, FakeRunner, tune


def optuna_trials(folder: Path) -> list[Any]:
    import optuna

    storage = optuna.storages.RDBStorage(f"sqlite:///{folder / 'study.db'}")
    (name,) = optuna.get_all_study_names(storage)
    trials = optuna.load_study(study_name=name, storage=storage).trials
    storage.engine.dispose()
    return trials


def states(folder: Path) -> dict[int, str]:
    return {trial.number: trial.state.name for trial in optuna_trials(folder)}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FakeRunner, TuneResult]:
    folder, runner = tmp_path_factory.mktemp("study") / "study", FakeRunner()
    return folder, runner, tune(folder, runner, budget=Budget(memory_bytes=440 * MIB), max_trials=20, on_disk=True)


def test_no_configuration_beyond_the_budget_is_ever_started(finished: tuple[Path, FakeRunner, TuneResult]) -> None:
    _, runner, result = finished
    assert runner.plans
    assert all(fakes.memory_bytes(plan.strategy) <= 440 * MIB for plan in runner.plans)
    refused = [entry for entry in result.never_started if entry.trial is not None]
    assert refused, "the sampler must have met the budget's edge for this test to mean anything"
    assert any(entry.method == "full" for entry in result.never_started)


def test_a_refused_sample_is_told_pruned_with_a_positive_constraint(
    finished: tuple[Path, FakeRunner, TuneResult],
) -> None:
    folder, _, result = finished
    told = {trial.number: trial for trial in optuna_trials(folder)}
    for entry in (entry for entry in result.never_started if entry.trial is not None):
        assert told[entry.trial].state.name == "PRUNED"
        assert told[entry.trial].constraints["memory"] > 0


def test_the_recommended_default_comes_first_then_its_learning_rates_then_the_other_defaults(
    finished: tuple[Path, FakeRunner, TuneResult],
) -> None:
    _, _, result = finished
    openings = [trial for trial in result.trials if trial.origin != "sampled"]
    assert [trial.origin for trial in openings] == ["recommended", *["race"] * 3, *["default"] * 4]
    assert [trial.number for trial in openings] == list(range(8))
    assert [trial.strategy.method for trial in openings] == [*["lora"] * 4, "hira", "partial", "ia3", "head"]
    assert [trial.strategy.lr_rel for trial in openings[:4]] == pytest.approx([1, 3, 1 / 3, 10])


def test_fidelities_are_nested_prefixes_of_the_training_split_only(
    finished: tuple[Path, FakeRunner, TuneResult],
) -> None:
    _, runner, result = finished
    assert result.ladder_rows == (810, 2430, 8100)
    *trials, final = runner.plans
    assert final.data == fakes.DATA, "the last run is the final one, judged on rows that no trial saw"
    for plan in trials:
        assert plan.data == dataclasses.replace(
            fakes.DATA, inner_holdout=True, max_train_rows=plan.data_profile.train_rows, max_eval_rows=500
        )
        assert plan.data_profile.train_rows in result.ladder_rows


def test_the_final_run_is_the_answer(finished: tuple[Path, FakeRunner, TuneResult]) -> None:
    _, runner, result = finished
    assert result.final is not None and result.final.plan == result.best == runner.plans[-1]
    assert result.final.metric == pytest.approx(1 - fakes.SURFACE.nll(result.best.strategy, 9000) / 2)


def test_the_plan_is_the_final_run_on_all_rows_with_its_cost(finished: tuple[Path, FakeRunner, TuneResult]) -> None:
    folder, _, result = finished
    assert result.best.data == fakes.DATA
    assert result.best.data_profile == fakes.PROFILE
    assert result.best.predicted is not None
    assert load_plan(folder / "plan.json") == result.best
    assert result.best_trial is not None
    assert result.best.strategy == result.trials[result.best_trial].strategy


def test_the_winner_is_better_than_every_default(finished: tuple[Path, FakeRunner, TuneResult]) -> None:
    _, _, result = finished
    defaults = [
        fakes.SURFACE.nll(trial.strategy, 8100) for trial in result.trials if trial.origin in ("recommended", "default")
    ]
    assert fakes.SURFACE.nll(result.best.strategy, 8100) < min(defaults) - 0.02


def test_completed_and_pruned_trials_store_the_loss(
    finished: tuple[Path, FakeRunner, TuneResult],
) -> None:
    folder, _, result = finished
    told = {trial.number: trial for trial in optuna_trials(folder)}
    for trial in result.trials:
        if trial.verdict == "completed" or trial.verdict == "pruned":
            assert told[trial.number].value == pytest.approx(trial.evaluations[-1].nll)


def test_run_outputs_are_removed_and_records_stay(finished: tuple[Path, FakeRunner, TuneResult]) -> None:
    folder, runner, _ = finished
    assert not list((folder / "trials").rglob("weights"))
    stored = [name for trial in optuna_trials(folder) for name in trial.user_attrs if name.startswith("evaluation/")]
    assert len(stored) == len(runner.calls) - 1


def test_the_pareto_set_holds_the_best_metric(finished: tuple[Path, FakeRunner, TuneResult]) -> None:
    _, _, result = finished
    tops = [trial.top for trial in result.trials if trial.top and trial.top.train_rows == 8100]
    assert result.pareto[0].metric == max(top.metric or 0.0 for top in tops)


@pytest.mark.parametrize("budget_s", [60.0, 240.0, 1000.0])
@pytest.mark.parametrize("time_factor", [0.3, 1.0, 3.0])
def test_the_time_budget_is_kept_even_when_predictions_are_wrong(
    tmp_path: Path, budget_s: float, time_factor: float
) -> None:
    runner = FakeRunner()
    result = tune(tmp_path / "s", runner, time_budget_s=budget_s, cost_model=FakeCostModel(time_factor))
    assert runner.seconds <= budget_s
    assert result.elapsed_s <= budget_s
    assert runner.seconds >= 0.25 * budget_s


def test_an_unknown_speed_is_learnt_on_the_way(tmp_path: Path) -> None:
    runner = FakeRunner()
    result = tune(tmp_path / "s", runner, time_budget_s=240.0, cost_model=FakeCostModel(knows_time=False))
    assert runner.seconds <= 240
    assert [trial.origin for trial in result.trials[:4]] == ["recommended", "race", "race", "race"]


def test_max_trials_counts_started_trials(tmp_path: Path) -> None:
    result = tune(tmp_path / "s", FakeRunner(), max_trials=7)
    assert sum(trial.started for trial in result.trials) == 7
    assert "max_trials" in result.stopped_because
    assert not [trial for trial in result.trials if trial.verdict == "open"]


def test_a_study_stops_when_only_seeds_would_differ(tmp_path: Path) -> None:
    flat = {
        name: dataclasses.replace(strategy, dimensions={})
        for name, strategy in fakes.strategies().items()
        if name == "head"
    }
    same = Measurement("completed", total_s=1.0, metrics={"eval_loss": 0.5, "accuracy": 0.75})
    runner = FakeRunner(respond=lambda plan: same)
    result = tune(tmp_path / "s", runner, time_budget_s=1e5, strategies=flat)
    assert "noise between seeds" in result.stopped_because
    assert runner.seconds < 1000


def failing(method: str, answer: Measurement) -> FakeRunner:
    return FakeRunner(respond=lambda plan: answer if plan.strategy.method == method else None)


@pytest.mark.parametrize(
    ("answer", "state", "verdict", "constraint"),
    [
        (Measurement("out_of_memory", device_peak_bytes=700 * MIB, total_s=2.0), "PRUNED", "out_of_memory", "memory"),
        (Measurement("out_of_memory", total_s=2.0), "PRUNED", "out_of_memory", "memory"),
        (Measurement("over_time", "too slow", total_s=5000.0), "PRUNED", "over_time", "time"),
        (Measurement("failed", "segmentation fault", total_s=2.0), "FAIL", "failed", None),
        (
            Measurement("completed", device_peak_bytes=700 * MIB, total_s=2.0, metrics={"eval_loss": 0.1}),
            "PRUNED", "infeasible", "memory",
        ),
        (Measurement("completed", total_s=2.0, metrics={"eval_loss": float("nan")}), "PRUNED", "pruned", None),
    ],
)  # fmt: skip
def test_failures_are_data_and_the_study_goes_on(
    tmp_path: Path, answer: Measurement, state: str, verdict: str, constraint: str | None
) -> None:
    budget = Budget(memory_bytes=600 * MIB, time_s=4000.0)
    result = tune(
        tmp_path / "s", failing("lora", answer), budget=budget, time_budget_s=1e5, max_trials=12, on_disk=True
    )
    hit = [trial for trial in result.trials if trial.strategy.method == "lora" and trial.started]
    told = {trial.number: trial for trial in optuna_trials(tmp_path / "s")}
    assert hit and sum(trial.started for trial in result.trials) == 12
    for trial in hit:
        assert trial.verdict == verdict
        assert told[trial.number].state.name == state
        violated = {name for name, value in told[trial.number].constraints.items() if value > 0}
        assert violated == ({constraint} if constraint else set())
    assert result.best.strategy.method != "lora"


def test_a_runner_that_raises_is_a_failed_trial(tmp_path: Path) -> None:
    def broken(plan: Plan) -> Measurement | None:
        if plan.strategy.method == "ia3":
            raise ZeroDivisionError("division by zero")
        return None

    result = tune(tmp_path / "s", FakeRunner(respond=broken), max_trials=8)
    (ia3,) = [trial for trial in result.trials if trial.strategy.method == "ia3" and trial.origin == "default"]
    assert (ia3.verdict, ia3.reason) == ("failed", "ZeroDivisionError: division by zero")


def test_a_projected_run_beyond_the_time_budget_cannot_win(tmp_path: Path) -> None:
    slow = Measurement("completed", total_s=5.0, step_times_s=(10.0,), metrics={"eval_loss": 0.1, "accuracy": 0.99})
    budget = Budget(memory_bytes=600 * MIB, time_s=4000.0)
    result = tune(tmp_path / "s", failing("hira", slow), budget=budget, time_budget_s=9000.0, max_trials=8)
    (hira,) = [trial for trial in result.trials if trial.strategy.method == "hira" and trial.origin == "default"]
    # 282 steps an epoch, 3 epochs, 10 s a step
    assert hira.constraints["time"] == pytest.approx(282 * 3 * 10 / 4000 - 1)
    assert result.best.strategy.method != "hira"


def test_language_models_minimise_the_loss_and_report_perplexity(tmp_path: Path) -> None:
    model = dataclasses.replace(fakes.MODEL, task="causal-lm")
    result = tune(tmp_path / "s", FakeRunner(), model=model, max_trials=6)
    top = result.trials[result.best_trial].top
    assert result.metric_name == "perplexity"
    assert top is not None and top.nll is not None
    assert top.metric == pytest.approx(2.718281828**top.nll)
    assert top.nll == min(point.nll for point in result.pareto)


def test_nothing_fits(tmp_path: Path) -> None:
    with pytest.raises(NothingFitsError) as caught:
        tune(tmp_path / "s", FakeRunner(), budget=Budget(memory_bytes=100 * MIB))
    assert len(caught.value.problems) == 6
    assert not (tmp_path / "s" / "plan.json").exists()


def test_nothing_finished(tmp_path: Path) -> None:
    runner = FakeRunner(respond=lambda plan: Measurement("failed", "no luck", total_s=1.0))
    with pytest.raises(RunFailed) as caught:
        tune(tmp_path / "s", runner, max_trials=3)
    assert "trial 0 (lora): no luck" in caught.value.problems
    assert load_plan(tmp_path / "s" / "plan.json").strategy.method == "lora"


@pytest.mark.parametrize(
    ("changes", "error"),
    [({"time_budget_s": 0.0}, BudgetError), ({"max_trials": 0}, InputError)],
)
def test_impossible_requests(tmp_path: Path, changes: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        tune(tmp_path / "s", FakeRunner(), **changes)


def test_one_study_a_folder(tmp_path: Path) -> None:
    tune(tmp_path / "s", FakeRunner(), max_trials=2, on_disk=True)
    with pytest.raises(OutputError, match="holds one"):
        tune(tmp_path / "s", FakeRunner(), max_trials=2, on_disk=True)


def test_two_processes_cannot_share_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from advisor.search.study import storage

    monkeypatch.setattr(storage, "LOCK_PATIENCE_S", 0.1)
    with storage.owned(tmp_path / "s"), pytest.raises(OutputError, match="another one works"):
        tune(tmp_path / "s", FakeRunner(), max_trials=2)


@pytest.mark.parametrize(
    "signal", [KeyboardInterrupt(), InterruptedByUser("stopped"), Measurement("interrupted", "Ctrl-C")]
)
def test_ctrl_c_keeps_the_study_and_says_how_to_go_on(tmp_path: Path, signal: Any) -> None:
    def interrupt(plan: Plan) -> Measurement | None:
        if len(runner.calls) < 4:
            return None
        if isinstance(signal, Measurement):
            return signal
        raise signal

    runner = FakeRunner(respond=interrupt)
    with pytest.raises(InterruptedByUser) as caught:
        tune(tmp_path / "s", runner, resume_command="advisor tune … --resume", on_disk=True)
    assert caught.value.fix == "continue with: advisor tune … --resume"
    assert isinstance(caught.value, StudyInterrupted)
    assert caught.value.result.interrupted and caught.value.result.best == load_plan(tmp_path / "s" / "plan.json")
    assert states(tmp_path / "s")[3] == "RUNNING"

    again = FakeRunner()
    result = tune(tmp_path / "s", again, resume=True, max_trials=6, on_disk=True)
    assert again.runs[0] == runner.runs[3], "the interrupted run goes first"
    assert again.resumed[0], "and continues from its checkpoint"
    assert all(run not in runner.runs[:3] for run in again.runs), "what was finished is not run again"
    assert set(states(tmp_path / "s").values()) <= {"COMPLETE", "PRUNED"}
    assert len(result.trials) >= 6


def test_hopeless_predictions_do_not_keep_the_first_run_from_being_tried(tmp_path: Path) -> None:
    result = tune(tmp_path / "s", FakeRunner(), time_budget_s=240.0, cost_model=FakeCostModel(time_factor=100.0))
    assert sum(trial.started for trial in result.trials) >= 5
    assert result.ladder_rows[0] >= 640, "no rung is too short to leave chance on"
