"""The suite ``speed``: who runs when, what is concluded, and one small comparison for real."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from advisor.core.errors import InputError, InterruptedByUser
from advisor.core.plan import Plan
from advisor.core.run import Measurement
from advisor.core.serialization import to_json
from advisor.experiments.grid import Cell, CellResult, run_cells
from advisor.experiments.speed.compare import (
    FORMAT,
    BenchmarkRun,
    Training,
    compared,
    contrast,
    published_methods,
    recipes_for,
    reference_batch_size,
    training_cells,
)
from advisor.experiments.speed.train import train_arm
from advisor.experiments.store import GridHeader, RecordStore
from advisor.reporting.speed import print_speed
from tests.training import training_runs


def run(arm: str, seed: int, seconds: float, accuracy: float = 0.8, loss: float = 0.5) -> BenchmarkRun:
    return BenchmarkRun(arm, seed, 100, seconds, {"accuracy": accuracy, "eval_loss": loss})


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    strategy = training_runs.lora_strategy(num_train_epochs=1.0)
    return training_runs.tiny_plan(
        tmp_path_factory.mktemp("tiny"), strategy=strategy, rows=80, micro_batch_size=8, group_by_length=True
    )


def test_ratios_are_taken_within_a_round_and_their_median_counts() -> None:
    runs = [run("plan", 1, 10), run("reference", 1, 20), run("plan", 2, 40), run("reference", 2, 200)]
    runs += [run("plan", 3, 10), run("reference", 3, 30)]
    found = contrast(runs, "reference")
    assert (found.lowest, found.ratio, found.highest) == (2.0, 3.0, 5.0)


def test_a_difference_inside_the_noise_is_equal_and_a_clear_one_is_not() -> None:
    noisy = [run("plan", seed, 1, accuracy=a) for seed, a in enumerate((0.80, 0.83, 0.78))]
    noisy += [run("plain", seed, 1, accuracy=a) for seed, a in enumerate((0.82, 0.79, 0.80))]
    assert contrast(noisy, "plain").equal_quality("accuracy")
    clear = [run("plan", seed, 1, accuracy=a) for seed, a in enumerate((0.70, 0.71, 0.72))]
    clear += [run("plain", seed, 1, accuracy=a) for seed, a in enumerate((0.80, 0.81, 0.82))]
    assert not contrast(clear, "plain").equal_quality("accuracy")
    assert contrast(clear, "plain").equal_quality("eval_loss")
    mean, interval = contrast(noisy, "plain").differences["accuracy"]
    assert mean == pytest.approx(0.0)
    # Paired differences -0.02, 0.04, -0.02: standard error 0.02; t(0.95, 2 degrees) = 2.920.
    assert interval.high == pytest.approx(2.920 * 0.02, rel=1e-3)


def test_every_round_begins_with_another_arm(plan: Plan) -> None:
    cells = training_cells(plan, recipes_for(plan), (5, 6, 7))
    assert [cell.payload.arm for cell in cells] == [
        *("plan", "reference", "plain"),
        *("reference", "plain", "plan"),
        *("plain", "plan", "reference"),
    ]
    assert [cell.payload.seed for cell in cells] == [5, 5, 5, 6, 6, 6, 7, 7, 7]
    assert len({cell.key for cell in cells}) == 9
    assert [cell.key for cell in cells] == [cell.key for cell in training_cells(plan, recipes_for(plan), (5, 6, 7))]
    other = replace(plan, strategy=replace(plan.strategy, learning_rate=0.5))
    assert not {cell.key for cell in cells} & {cell.key for cell in training_cells(other, recipes_for(plan), (5, 6, 7))}


def test_a_training_that_failed_keeps_the_other_rounds_and_runs_again(plan: Plan, tmp_path: Path) -> None:
    ran: list[str] = []

    def execute(cell: Cell[Training], limit_s: float | None) -> CellResult[BenchmarkRun]:
        ran.append(cell.label)
        if cell.label.endswith("reference, seed 6") and len(ran) < 9:
            return CellResult("out_of_memory", reason="it was killed by the system")
        return CellResult("completed", run(cell.payload.arm, cell.payload.seed, 1), seconds=1.0)

    def call() -> list[BenchmarkRun]:
        cells = training_cells(plan, recipes_for(plan), (5, 6))
        with RecordStore(tmp_path / "speed.jsonl", GridHeader("speed", "cpu-test"), FORMAT) as store:
            run_cells(cells, execute, store)
            return [value for cell in cells if (value := store.records[cell.key].value) is not None]

    first = compared(plan, recipes_for(plan), call())
    assert first is not None
    assert {measured.seed for measured in first.runs} == {5}
    assert len(ran) == 6
    ran += ["", ""]
    second = compared(plan, recipes_for(plan), call())
    assert second is not None
    assert {measured.seed for measured in second.runs} == {5, 6}
    assert ran[8:] == ["lora: reference, seed 6"]


def test_of_a_comparison_that_was_stopped_the_whole_rounds_count(plan: Plan) -> None:
    runs = [run(arm, seed, 1 + seed) for seed in (5, 6) for arm in ("plan", "reference", "plain")]
    cut = compared(plan, recipes_for(plan), [*runs[:3], runs[4], runs[5]])
    assert cut is not None
    assert {measured.seed for measured in cut.runs} == {5}
    assert [len(cut.of(arm)) for arm in ("plan", "reference", "plain")] == [1, 1, 1]
    assert compared(plan, recipes_for(plan), runs[:2]) is None


def test_the_published_batches(plan: Plan) -> None:
    assert [reference_batch_size(method) for method in ("full", "lora", "qlora")] == [8, 32, 32]
    assert published_methods() == ("lora", "full")
    reference, plain = recipes_for(plan)
    assert (reference.padding, reference.max_length, reference.batch_size) == ("max_length", 64, 32)
    assert (plain.padding, plain.batch_size) == ("longest", plan.execution.effective_batch_size)


def test_a_training_that_was_stopped_is_no_result(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """``train`` answers Ctrl-C with what it has: a part of a training, without metrics."""
    stopped = Measurement(outcome="interrupted", training_s=0.5)
    monkeypatch.setattr("advisor.training.trainer.train", lambda *_, **__: stopped)
    with pytest.raises(InterruptedByUser, match="interrupted"):
        train_arm(Training(plan, None, 5))


def test_another_task_is_refused_before_anything_is_trained(plan: Plan) -> None:
    with pytest.raises(InputError, match="causal-lm"):
        recipes_for(replace(plan, model=replace(plan.model, task="causal-lm")))


@pytest.mark.slow
def test_three_arms_for_real(plan: Plan, tmp_path: Path) -> None:
    recipes = tuple(replace(recipe, batch_size=8) for recipe in recipes_for(plan))
    found = compared(plan, recipes, [train_arm(cell.payload) for cell in training_cells(plan, recipes, (7, 8))])
    assert found is not None
    assert [len(found.of(arm)) for arm in ("plan", "reference", "plain")] == [2, 2, 2]
    assert {measured.rows for measured in found.runs} == {64}
    assert all(0 <= measured.metrics["accuracy"] <= 1 and measured.samples_per_s > 0 for measured in found.runs)
    losses = {arm: found.of(arm)[0].metrics["eval_loss"] for arm in ("reference", "plain")}
    assert losses["reference"] == pytest.approx(losses["plain"], abs=0.05)  # padding changes speed, not what is learned
    answer = json.loads(to_json(found))
    assert {"method", "plan", "recipes", "runs", "contrasts"} == set(answer)
    console = Console(file=io.StringIO(), width=220)
    print_speed(console, found)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "plan / reference: " in text
    assert "grouped by length" in text
