"""A model or data that changed since the plan was made is noticed before anything is trained."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from advisor.core.benchmark import ModelEvaluation, QualityReport
from advisor.core.errors import InputError, ModelError, OutputError, PlanError
from advisor.core.plan import Plan, load_plan
from advisor.core.serialization import to_json
from advisor.core.strategy import StrategyConfig
from advisor.pipeline.evaluating import evaluate
from advisor.pipeline.running import run
from advisor.pipeline.unchanged import check_base_unchanged, check_unchanged
from advisor.training.data.resolving import with_eval_source
from advisor.training.fingerprints import BLOCK_BYTES, BLOCKS, changed_parts, fingerprints
from tests.training import training_runs

Change = Callable[[Path, Path], None]
"""Of a model's folder and a data file."""


def _flip_labels(_: Path, data: Path) -> None:
    swapped = data.read_text().replace("negative", "?").replace("positive", "negative").replace("?", "positive")
    data.write_text(swapped)


def _drop_rows(_: Path, data: Path) -> None:
    data.write_text("".join(data.read_text().splitlines(keepends=True)[:-50]))


def _other_words(_: Path, data: Path) -> None:
    data.write_text(data.read_text().replace("film", "movie"))


def _zero_weights(model: Path, _: Path) -> None:
    weights = model / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))


def _deepen(model: Path, _: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 4}))


def _other_tokenizer(model: Path, _: Path) -> None:
    (model / "tokenizer.json").write_text((model / "tokenizer.json").read_text().replace("film", "plat"))


@pytest.fixture
def made(tmp_path: Path) -> tuple[Plan, Path, Path]:
    plan = training_runs.tiny_plan(tmp_path)
    return plan, Path(plan.model.source), Path(plan.data.source)


def test_nothing_is_said_where_nothing_changed(made: tuple[Plan, Path, Path], tmp_path: Path) -> None:
    plan = made[0]
    plan.save(tmp_path / "plan.json")
    check_unchanged(load_plan(tmp_path / "plan.json"), accept_changes=False, on_event=None)
    assert set(plan.model.fingerprints) >= {"config.json", "weights", "tokenizer"}


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (_flip_labels, "the content of the rows of rows-200.jsonl"),
        (_drop_rows, "120 to train on and 30 held out, where there were 160 and 40"),
        (_other_words, "the content of the rows of rows-200.jsonl"),
        (_zero_weights, "weights of "),
        (_deepen, "config.json of "),
        (_other_tokenizer, "tokenizer of "),
    ],
)
def test_a_change_is_named_and_refused(change: Change, what: str, made: tuple[Plan, Path, Path]) -> None:
    plan, model, data = made
    change(model, data)
    with pytest.raises(InputError, match=what) as failure:
        check_unchanged(plan, accept_changes=False, on_event=None)
    assert len(failure.value.problems) == 1 and "--accept-changes" in str(failure.value.fix)
    events: list[dict[str, object]] = []
    check_unchanged(plan, accept_changes=True, on_event=events.append)
    assert [event["kind"] for event in events] == ["note"]


def test_a_run_refuses_before_it_makes_anything(made: tuple[Plan, Path, Path], tmp_path: Path) -> None:
    plan, model, data = made
    _drop_rows(model, data)
    for resume in (False, True):
        with pytest.raises(InputError, match="have changed since"):
            run(plan, tmp_path / "out", resume=resume, any_device=True)
    assert not (tmp_path / "out").exists()


def test_older_plans_and_trials_are_not_compared(made: tuple[Plan, Path, Path]) -> None:
    plan, model, data = made
    _drop_rows(model, data)
    older = dataclasses.replace(plan, model=dataclasses.replace(plan.model, fingerprints={}))
    trial = dataclasses.replace(plan, data=dataclasses.replace(plan.data, inner_holdout=True, max_train_rows=20))
    for unknown in (older, trial):
        check_unchanged(unknown, accept_changes=False, on_event=None)


def test_large_files_are_sampled_to_their_end(made: tuple[Plan, Path, Path]) -> None:
    plan, model, _ = made
    shard = model / "model-2.safetensors"
    with shard.open("wb") as stream:
        stream.truncate(2 * BLOCK_BYTES * BLOCKS)
    spec = dataclasses.replace(plan.model, fingerprints=fingerprints(str(model), "folder"))
    assert changed_parts(spec) == []
    with shard.open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"x")
    assert changed_parts(spec) == ["weights"]


def test_a_trained_model_is_measured_on_the_base_and_the_classes_that_it_was_trained_with(
    made: tuple[Plan, Path, Path],
) -> None:
    """An adapter on other weights, or classes in another order, would give figures that mean nothing."""
    plan, model, data = made
    names = ("negative", "positive")
    check_base_unchanged(plan, names, accept_changes=False, on_event=None)
    with pytest.raises(InputError, match="the classes that were trained, 'negative', 'positive', but") as failure:
        check_base_unchanged(plan, ("positive", "refusing"), accept_changes=True, on_event=None)
    assert "put the file back" in str(failure.value.fix)

    _zero_weights(model, data)
    with pytest.raises(InputError, match="must be the one that was trained on") as failure:
        check_base_unchanged(plan, names, accept_changes=False, on_event=None)
    assert "--accept-changes" in str(failure.value.fix) and "weights of" in failure.value.problems[0]
    events: list[dict[str, object]] = []
    check_base_unchanged(plan, names, accept_changes=True, on_event=events.append)
    assert [event["kind"] for event in events] == ["note"]
    whole = dataclasses.replace(plan, strategy=StrategyConfig("full", 1e-4))
    check_base_unchanged(whole, names, accept_changes=False, on_event=None)


def test_a_model_that_is_gone_is_not_called_changed(made: tuple[Plan, Path, Path]) -> None:
    plan, model, _ = made
    model.rename(model.with_name("elsewhere"))
    for accept_changes in (False, True):
        with pytest.raises(ModelError, match="there is nothing at"):
            check_unchanged(plan, accept_changes=accept_changes, on_event=None)
        with pytest.raises(ModelError, match="there is nothing at"):
            check_base_unchanged(plan, (), accept_changes=accept_changes, on_event=None)


def test_an_evaluation_does_not_replace_that_of_another_file(made: tuple[Plan, Path, Path], tmp_path: Path) -> None:
    """Files of one name in two folders have the same default folder of the result."""
    plan, _, data = made
    (tmp_path / "run" / "model").mkdir(parents=True)
    plan.save(tmp_path / "run" / "plan.json")
    other = tmp_path / "other" / "rows-200.jsonl"
    other.parent.mkdir()
    other.write_text(data.read_text().replace("film", "movie"))
    there = tmp_path / "run" / "evaluations" / "rows-200"
    spec = with_eval_source(plan.data, str(data))
    found = ModelEvaluation(str(tmp_path / "run"), "lora", spec, {}, QualityReport(items=1), 1.0, 1.0, str(there))
    kept = to_json(found)
    there.mkdir(parents=True)
    (there / "evaluation.json").write_text(kept)
    with pytest.raises(OutputError, match="holds that of") as failure:
        evaluate(tmp_path / "run", str(other))
    assert "--output" in str(failure.value.fix)
    assert (there / "evaluation.json").read_text() == kept


def test_a_task_that_is_not_trained_on_the_rows_is_refused(made: tuple[Plan, Path, Path], tmp_path: Path) -> None:
    """A plan whose task was edited by hand."""
    plan = dataclasses.replace(made[0], model=dataclasses.replace(made[0].model, task="causal-lm"))
    with pytest.raises(PlanError, match="causal-lm is not trained on labelled texts") as failure:
        run(plan, tmp_path / "out", any_device=True)
    assert "advisor recommend" in str(failure.value.fix) and not (tmp_path / "out").exists()
