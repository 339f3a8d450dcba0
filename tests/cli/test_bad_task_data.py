"""Data that a task cannot be trained on: one screen, exit code 2, before anything is predicted or trained."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from advisor.core.tasks import task_traits
from advisor.pipeline.inputs import DataSource, ModelSource, load_inputs
from tests.cli.conftest import Advisor
from tests.training.tasks.cases import CASES, save_tiny

Line = Callable[[int], dict[str, Any]]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("models")

    def model_for(task: str) -> Path:
        path = folder / CASES[task].model
        return path if path.exists() else save_tiny(CASES[task].model, path)

    return model_for


def save(path: Path, lines: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def refused(advisor: Advisor, tiny: Callable[[str], Path], tmp_path: Path) -> Callable[..., str]:
    """What is said about a table that is refused."""

    def call(task: str, line: Line, *more: str, held: dict[str, Any] | None = None) -> str:
        path = save(tmp_path / "rows.jsonl", map(line, range(30)))
        arguments = ["--data", str(path), "--task", task, "--device", "rtx-4090", *more]
        if held is not None:
            arguments += ["--eval-data", str(save(tmp_path / "held.jsonl", [held]))]
        answer = advisor("recommend", tiny(task), *arguments)
        assert answer.code == 2, answer.stderr
        assert "error: " in answer.stderr and "\nfix: " in answer.stderr
        assert len(answer.stderr.splitlines()) < 24
        return answer.stderr

    return call


@pytest.mark.parametrize("task", CASES)
def test_columns_that_the_task_does_not_have(task: str, refused: Callable[..., str]) -> None:
    said = refused(task, lambda i: {"x": f"word {i}", "y": f"film {i}"})
    if task_traits(task).learns_preferences:
        assert "called chosen and rejected" in said
    else:
        assert "the text column must be known" in said and "--text-column" in said


@pytest.mark.parametrize("task", CASES)
def test_a_named_column_that_is_not_there(task: str, refused: Callable[..., str]) -> None:
    case = CASES[task]
    assert case.columns is not None
    columns = case.columns
    said = refused(task, lambda i: {name: value(i) for name, value in columns.items()}, "--text-column", "nowhere")
    assert "nowhere" in said


@pytest.mark.parametrize(
    ("task", "line", "held"),
    [
        (
            "sequence-classification",
            lambda i: {"text": f"word {i}", "label": f"c{i % 2}"},
            {"text": "w", "label": "new"},
        ),
        (
            "multi-label-classification",
            lambda i: {"text": f"word {i}", "labels": [f"c{i % 3}"]},
            {"text": "w", "labels": ["new"]},
        ),
        (
            "token-classification",
            lambda i: {"tokens": ["Ada", f"{i}"], "tags": ["B-PER", "O"]},
            {"tokens": ["Ada"], "tags": ["new"]},
        ),
    ],
)
def test_held_out_labels_that_training_has_not(
    task: str, line: Line, held: dict[str, Any], refused: Callable[..., str]
) -> None:
    assert "held-out labels must occur in training, but 'new' do not" in refused(task, line, held=held)


@pytest.mark.parametrize(
    ("task", "line", "told"),
    [
        ("sequence-classification", lambda i: {"text": f"word {i}", "label": "c"}, "at least two classes"),
        ("multi-label-classification", lambda i: {"text": f"word {i}", "labels": ["c"]}, "at least two labels"),
        (
            "token-classification",
            lambda i: {"tokens": ["Ada", f"{i}"], "tags": ["O", "O"]},
            "tags to learn must differ",
        ),
        ("text-regression", lambda i: {"text": f"word {i}", "label": 2.5}, "numbers to learn must differ"),
    ],
)
def test_one_class_only(task: str, line: Line, told: str, refused: Callable[..., str]) -> None:
    assert told in refused(task, line)


def test_spans_that_overlap(refused: Callable[..., str]) -> None:
    said = refused(
        "token-classification", lambda i: {"text": f"Ada Lovelace {i}", "spans": [[0, 12, "A"], [4, 12, "B"]]}
    )
    assert "do not overlap" in said and "row 1" in said


@pytest.mark.parametrize(
    ("task", "line", "told"),
    [
        ("seq2seq-lm", lambda i: {"document": f"word {i}", "summary": "" if i == 7 else "film"}, "row 8 of"),
        ("seq2seq-lm", lambda i: {"question": f"q {i}", "context": "c", "answers": {"text": []}}, "none is left"),
        ("causal-lm", lambda i: {"prompt": f"word {i}", "completion": ""}, "none is left"),
        ("masked-lm", lambda i: {"text": "word"}, "at least two different texts"),
    ],
)
def test_nothing_to_learn(task: str, line: Line, told: str, refused: Callable[..., str]) -> None:
    assert told in refused(task, line)


@pytest.mark.parametrize("task", ["sequence-classification", "causal-lm"])
def test_rows_that_are_all_too_long_are_cut_and_it_is_said(
    task: str, tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    """A label stays; of prompts with an answer, the window moves to the answer."""
    more = {"label": "c{}"} if task.startswith("sequence") else {"completion": "film"}
    text = "prompt" if "completion" in more else "text"
    lines = ({text: "word " * 40 + f"{i}", **{k: v.format(i % 2) for k, v in more.items()}} for i in range(30))
    path, told = save(tmp_path / "rows.jsonl", lines), list[str]()
    source = DataSource(str(path), max_seq_length=16)
    inputs = load_inputs(ModelSource(str(tiny(task)), task), source, lambda event: told.append(event.get("text", "")))
    assert inputs.profile.truncated_rows == inputs.profile.train_rows == 27
    assert any("truncated to 16 tokens" in text for text in told)


@pytest.mark.parametrize("task", CASES)
def test_rows_that_are_all_longer_than_the_model(
    task: str, refused: Callable[..., str], tiny: Callable[[str], Path]
) -> None:
    """They are only cut where the user says so."""
    positions = json.loads((tiny(task) / "config.json").read_text()).get("max_position_embeddings")
    columns = CASES[task].columns
    if positions is None or columns is None or (task_traits(task).packs_text and "text" in columns):
        pytest.skip("positions of this model have no end, or its text is cut into blocks")

    def lengthened(value: Any) -> Any:
        if isinstance(value, list):
            return value * positions
        return f"{value} " + "word " * positions if " " in str(value) else value

    said = refused(task, lambda i: {name: lengthened(value(i)) for name, value in columns.items()})
    assert f"must fit into the model's {positions} positions" in said
    assert f"--max-seq-length {positions}" in said


@pytest.mark.parametrize("task", CASES)
def test_lengths_beyond_the_model(task: str, refused: Callable[..., str], tiny: Callable[[str], Path]) -> None:
    if json.loads((tiny(task) / "config.json").read_text()).get("max_position_embeddings") is None:
        pytest.skip("positions of this model have no end")
    case = CASES[task]
    assert case.columns is not None
    columns = case.columns
    said = refused(task, lambda i: {name: value(i) for name, value in columns.items()}, "--max-seq-length", "100000")
    assert "positions" in said
