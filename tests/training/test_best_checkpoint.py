"""Evaluations within an epoch, the best of them kept, and training that ends when nothing gets better."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import TrainerControl, TrainerState

from advisor.core.metrics import ACCURACY, PERPLEXITY
from advisor.core.plan import Plan, load_plan
from advisor.core.run import Measurement
from advisor.core.serialization import to_dict
from advisor.measurement.efficiency import run_warnings
from advisor.training.best_checkpoint import BestCheckpoint, EvaluationSchedule
from advisor.training.callbacks import StepClock
from advisor.training.trainer import train
from tests.training import training_runs
from tests.training.training_runs import lora_strategy, tiny_plan

History = list[tuple[int, dict[str, float]]]


def settled(history: History, patience: int | None = None, metric: Any = ACCURACY) -> tuple[int | None, bool]:
    best, control, state = BestCheckpoint(Path("x"), metric, history, patience), TrainerControl(), TrainerState()
    best.on_evaluate(None, state, control)
    assert state.best_model_checkpoint == (f"x/checkpoint-{best.best_step}" if best.best_step else None)
    return best.best_step, control.should_training_stop


def test_the_best_evaluation_is_the_first_of_equally_good_ones() -> None:
    history: History = [(10, {"accuracy": 0.5}), (20, {"accuracy": 0.9}), (30, {"accuracy": 0.9}), (40, {})]
    assert settled(history) == (20, False)
    assert settled([]) == (None, False)
    assert settled([(1, {"perplexity": 9.0}), (2, {"eval_loss": 1.0})], metric=PERPLEXITY) == (2, False)


@pytest.mark.parametrize(
    ("figures", "patience", "stops"),
    [
        ([0.5, 0.4], 1, True),
        ([0.5, 0.4], 2, False),
        ([0.5, 0.4, 0.3], 2, True),
        ([0.5, 0.4, 0.6], 2, False),
        ([0.5, 0.4, 0.6, 0.6], 1, True),
        ([0.5], 1, False),
    ],
)
def test_training_ends_after_evaluations_without_a_better_one(figures: list[float], patience: int, stops: bool) -> None:
    history = [(step, {"accuracy": value}) for step, value in enumerate(figures, start=1)]
    assert settled(history, patience)[1] is stops


@pytest.mark.parametrize(
    ("steps", "per_epoch", "wanted"),
    [(40, 1, []), (40, 4, [10, 20, 30]), (10, 3, [3, 7]), (2, 5, [1]), (1, 4, [])],
)
def test_evaluations_are_spread_over_every_epoch(steps: int, per_epoch: int, wanted: list[int]) -> None:
    schedule, asked = EvaluationSchedule(steps, per_epoch), []
    for step in range(1, 2 * steps + 1):
        control = TrainerControl()
        schedule.on_step_end(None, SimpleNamespace(global_step=step, max_steps=2 * steps), control)
        asked += [step] if control.should_evaluate else []
    assert asked == [*wanted, *(steps + step for step in wanted)]


@pytest.fixture(scope="module")
def overshooting(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Path, Measurement, list[Any]]:
    """A run whose learning rate is too high, so that its best evaluation is not the last one."""
    folder, events = tmp_path_factory.mktemp("best"), []
    strategy = lora_strategy(
        learning_rate=0.4, num_train_epochs=4.0, evaluations_per_epoch=2, load_best_model_at_end=True,
        early_stopping_patience=3, lr_scheduler_type="constant",
    )  # fmt: skip
    plan = tiny_plan(folder, strategy=strategy)
    return plan, folder / "run", train(plan, folder / "run", on_event=events.append), events


def test_the_best_model_is_the_result(overshooting: tuple[Plan, Path, Measurement, list[Any]]) -> None:
    _, folder, measured, events = overshooting
    history = [(step, figures["accuracy"]) for step, figures in measured.metric_history]
    assert [step for step, _ in history] == [20 * number for number in range(1, len(history) + 1)]
    best_step, best = max(history, key=lambda pair: (pair[1], -pair[0]))
    assert best_step < history[-1][0], "the run must get worse, or this tests nothing"
    assert measured.metrics["accuracy"] == best
    assert measured.metrics["eval_loss"] == pytest.approx(
        dict(measured.metric_history)[best_step]["eval_loss"], rel=1e-5
    )
    assert not any("never saved" in warning for warning in run_warnings(measured, ACCURACY))
    assert len(measured.step_times_s) == history[-1][0] < 160, "three evaluations after the best one it ends"
    assert len(history) == [step for step, _ in history].index(best_step) + 1 + 3
    notes = [event["text"] for event in events if event["kind"] == "note"]
    assert any("stopped early" in note for note in notes) and any(f"step {best_step} is kept" in note for note in notes)
    assert (folder / "checkpoints" / f"checkpoint-{best_step}").is_dir(), "it is never rotated away"


def test_the_saved_model_is_the_best_one(overshooting: tuple[Plan, Path, Measurement, list[Any]]) -> None:
    from safetensors.torch import load_file

    _, folder, measured, _ = overshooting
    history = [(step, figures["accuracy"]) for step, figures in measured.metric_history]
    best_step, _ = max(history, key=lambda pair: (pair[1], -pair[0]))
    saved, kept = (
        load_file(place / "adapter_model.safetensors")
        for place in (folder / "model", folder / "checkpoints" / f"checkpoint-{best_step}")
    )
    assert saved.keys() == kept.keys() and all(bool((saved[name] == kept[name]).all()) for name in saved)


def test_a_resumed_run_waits_no_longer_than_an_uninterrupted_one(
    overshooting: tuple[Plan, Path, Measurement, list[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, _, measured, _ = overshooting
    with monkeypatch.context() as patched:
        patched.setattr(StepClock, "on_step_begin", StepClock.on_step_begin)
        stopped = training_runs.train_with_interrupts(plan, tmp_path / "again", at_step=50)
    assert stopped.outcome == "interrupted" and 40 < len(stopped.step_times_s) < measured.metric_history[-1][0]
    resumed = train(plan, tmp_path / "again", resume=True)
    assert resumed.metric_history == measured.metric_history
    assert resumed.metrics == pytest.approx(measured.metrics)


def test_knobs_are_kept_in_plans_and_old_plans_have_none_of_them(tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path)
    plan.save(tmp_path / "old.json")
    written = json.loads((tmp_path / "old.json").read_text())["strategy"]
    assert not {"class_weights", "early_stopping_patience"} & written.keys(), "digests of stored records hang on that"
    assert load_plan(tmp_path / "old.json") == plan
    knobs = {"load_best_model_at_end": True, "early_stopping_patience": 2, "evaluations_per_epoch": 3}
    new = dataclasses.replace(plan, strategy=plan.strategy.replaced(**knobs, class_weights="balanced"))
    new.save(tmp_path / "new.json")
    assert to_dict(new.strategy).items() >= knobs.items()
    assert load_plan(tmp_path / "new.json") == new
    assert new.strategy.evaluations == 6


def test_patience_needs_the_best_model() -> None:
    with pytest.raises(ValueError, match="early_stopping_patience = 2 needs load_best_model_at_end"):
        lora_strategy(early_stopping_patience=2)
