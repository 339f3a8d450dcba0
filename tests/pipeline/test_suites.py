"""A suite as a job: planned, trained cell by cell, stopped, continued, shown."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from advisor.core.benchmark import BenchmarkSettings
from advisor.core.errors import InputError, InterruptedByUser, RunFailed
from advisor.core.plan import Plan
from advisor.core.run import Measurement, RunRecord
from advisor.core.serialization import from_dict, to_json
from advisor.experiments.suites.definition import SuiteDefinition
from advisor.pipeline.inputs import DataSource, ModelSource
from advisor.pipeline.method_comparison import bench_methods
from advisor.pipeline.suites import bench_suite, recorded_suite
from advisor.reporting.suites import print_suite, suite_markdown
from tests.cli.conftest import advisor, model_dir, pretended_cpu, table  # noqa: F401

PUBLISHED = ("columbia-hpml", "duke-adapters", "roberta-imdb", "snli-partial")
SUITE = {
    "name": "tiny",
    "title": "A tiny study",
    "authors": "Nobody",
    "source": "a test",
    "models": {"encoder": {"hub": "none/none", "stand_in": "minilm"}},
    "data": {"words": {"hub": "", "stand_in": "movie-sentences", "task": "sequence-classification", "rows": 100}},
    "tables": [
        {"id": "t", "title": "Words", "rows": {"LoRA": {"accuracy": 0.9}, "Head": {"accuracy": 0.8, "training_s": 5.0}}}
    ],
    "cells": [
        {"id": "lora", "row": "LoRA", "table": "t", "model": "encoder", "data": "words", "method": "lora",
         "batch_size": 8, "max_seq_length": 24},
        {"id": "head", "row": "Head", "table": "t", "model": "encoder", "data": "words", "method": "head",
         "batch_size": 8, "max_seq_length": 24, "knobs": {"learning_rate": 1e-3}},
        {"id": "lora-own", "row": "LoRA", "table": "t", "model": "encoder", "data": "words", "method": "lora",
         "batch_size": 8, "max_seq_length": 24, "part": "corrected"},
    ],
    "claims": [
        {"id": "T1", "sentence": "LoRA is more accurate than the head.", "quantity": "accuracy", "relation": "more",
         "first": ["lora"], "second": ["head"], "size": 10.0, "table": "t"}
    ],
    "scales": {"small": {"train_rows": 64, "eval_rows": 20, "epochs": 1, "seeds": 3, "learning_rate_times": 2,
                         "predicts_published": False}},
}  # fmt: skip


class PretendedTraining:
    """Trains nothing; how a run ends is told by seed."""

    def __init__(self, ends: dict[tuple[str, int], str] | None = None) -> None:
        self.ends = ends or {}
        self.trained: list[tuple[str, int]] = []

    def __call__(self, plan: Plan, folder: Path, *, resume: bool = False) -> RunRecord:
        method, end = plan.strategy.method, self.ends.get((plan.strategy.method, plan.seed), "completed")
        self.trained.append((method, plan.seed))
        if end == "interrupted":
            raise InterruptedByUser("stopped by Ctrl-C")
        accuracy = {"lora": 0.9, "head": 0.8}[method] + 0.001 * (plan.seed % 3)
        measured = Measurement(end, metrics={"accuracy": accuracy}, training_s=2.0)  # type: ignore[arg-type]
        record = RunRecord(plan, measured, (), plan.device, {}, "", str(folder))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "record.json").write_text(to_json(record), encoding="utf-8")
        (folder / "model").mkdir(exist_ok=True)
        if end != "completed":
            raise RunFailed(f"it ended: {end}")
        return record


@pytest.fixture
def definition() -> SuiteDefinition:
    return from_dict(SuiteDefinition, SUITE, what="the suite")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A probed machine that all tests share, so that every step is traced once."""
    from advisor.hardware import save_profile

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADVISOR_HOME", str(tmp_path_factory.mktemp("home")))
        save_profile(pretended_cpu())
        yield


@pytest.fixture
def call(definition: SuiteDefinition, model_dir: Path, table: Path, home: None, tmp_path: Path) -> Any:  # noqa: F811
    def run(train: PretendedTraining, **options: Any) -> Any:
        return bench_suite(
            definition,
            model=str(model_dir),
            data=DataSource(str(table)),
            output=tmp_path / "suite",
            train=train,  # type: ignore[arg-type]
            **options,
        )

    return run


def test_a_suite_is_trained_once_judged_and_shown(call: Any, definition: SuiteDefinition, tmp_path: Path) -> None:
    train, told = PretendedTraining(), []
    report = call(train, on_event=told.append)
    # The corrected LoRA is the published one here: equal cells are trained once.
    assert sorted(train.trained) == [(method, seed) for method in ("head", "lora") for seed in (42, 43, 44)]
    assert [train.trained[0][1], train.trained[1][1]] == [42, 42]  # whole rounds
    length = next(event["text"] for event in told if event["kind"] == "note" and "predicted" in event["text"])
    assert length.startswith("3 cells x 3 seeds: 6 trainings of 6 to run, about ")
    assert {cell.cell: cell.state for cell in report.cells} == dict.fromkeys(("lora", "head", "lora-own"), "complete")
    assert (report.verdicts[0].outcome, report.verdicts[0].measured) == ("reproduced", pytest.approx(10.0))
    assert report.cells[0].predicted["allocated_peak_bytes"] > 0
    runs = list((tmp_path / "suite" / "runs").iterdir())
    assert len(runs) == 6 and not any((run / "model").exists() for run in runs)
    call(train)
    assert len(train.trained) == 6
    assert recorded_suite(tmp_path / "suite") == report
    console = Console(file=io.StringIO(), width=200)
    print_suite(console, report, definition)
    page = suite_markdown(report, definition)
    for text in (console.file.getvalue(), page):  # type: ignore[attr-defined]
        assert "90.10 ± 0.10" in text and "+10.00 points" in text and "reproduced" in text


def test_what_is_stopped_is_continued(call: Any) -> None:
    train = PretendedTraining({("head", 43): "interrupted"})
    report = call(train)
    assert (report.stopped, report.remaining) == ("interrupted", 3)
    assert {cell.cell: cell.state for cell in report.cells} == dict.fromkeys(("lora", "head", "lora-own"), "incomplete")
    assert report.verdicts[0].outcome == "underpowered"
    train.ends.clear()
    assert call(train).remaining == 0
    assert len(train.trained) == 7


def test_seeds_that_diverge_are_reported_and_two_make_a_cell_invalid(call: Any) -> None:
    report = call(PretendedTraining({("lora", 42): "diverged", ("head", 42): "diverged", ("head", 43): "diverged"}))
    cells = {cell.cell: cell for cell in report.cells}
    assert (cells["lora"].state, cells["lora"].diverged) == ("complete", (42,))
    assert (cells["head"].state, cells["head"].diverged) == ("invalid", (42, 43))
    assert report.verdicts[0].outcome == "not judged"
    assert report.remaining == 0  # to diverge is an answer


def test_a_training_that_fails_is_left_for_the_next_call(call: Any) -> None:
    report = call(PretendedTraining({("head", 44): "out_of_memory"}))
    assert (report.stopped, report.remaining) == ("", 1)
    assert any("head, seed 44: refused" in text for text in report.notes)


def test_inputs_are_labelled_and_unknown_keys_refused(call: Any, definition: SuiteDefinition, table: Path) -> None:  # noqa: F811
    assert call(PretendedTraining()).inputs["data words"] == f"{table} (given)"
    with pytest.raises(InputError, match="--model must name some of encoder, but got decoder"):
        bench_suite(definition, model={"decoder": "x"}, output=table.parent / "unused")
    with pytest.raises(InputError, match="the scale must be one of small"):
        bench_suite(definition, scale="huge")


def trained_here(plan: Plan, folder: Path, *, resume: bool = False) -> RunRecord:
    """As ``advisor run`` trains and measures it, but in this process, which has imported everything."""
    from advisor.measurement.run import run_in_this_process
    from advisor.training.run_folder import RunFolder

    RunFolder(folder).claim(plan, resume=resume)
    measured = run_in_this_process(plan, folder, benchmark=BenchmarkSettings(inference=False))
    return RunRecord(plan, measured, (), plan.device, {}, "", str(folder))


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_smoke_of_a_suite_trains_a_tiny_model(
    name: str,
    model_dir: Path,  # noqa: F811
    table: Path,  # noqa: F811
    home: None,
    tmp_path: Path,
) -> None:
    """Both cells of every suite, with one seed, on a tiny model; the pairs of SNLI's stand-in are made for it."""
    data = None if name == "snli-partial" else DataSource(str(table))
    report = bench_suite(
        name,
        scale="smoke",
        model=str(model_dir),
        data=data,
        output=tmp_path / "suite",
        num_threads=1,
        train=trained_here,
    )
    trained = [cell for cell in report.cells if cell.measured]
    assert len(trained) == 2 and report.remaining == 0
    for cell in trained:
        assert cell.measured["training_s"].mean > 0 and 0 <= cell.measured["accuracy"].mean <= 1
        assert cell.measured["trainable_parameters"].mean == cell.predicted["trainable_parameters"] > 0
    shapes = ["errors_true_middle_share" in cell.measured for cell in trained]
    assert shapes == [name == "snli-partial"] * 2


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_smoke_of_a_suite_trains_for_real(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADVISOR_HOME", str(tmp_path / "home"))
    data = {"imdb": DataSource("movie-sentences")} if name in ("duke-adapters", "roberta-imdb") else None
    report = bench_suite(name, scale="smoke", output=tmp_path / "suite", data=data, num_threads=1)
    trained = [cell for cell in report.cells if cell.measured]
    assert len(trained) == 2 and report.remaining == 0
    assert all(cell.measured["training_s"].mean > 0 for cell in trained)
    assert json.loads((tmp_path / "suite" / "report.json").read_text())["suite"] == name


def test_own_methods_are_written_for_the_app_of_peft(model_dir: Path, table: Path, home: None, tmp_path: Path) -> None:  # noqa: F811
    """Read as ``method_comparison/processing.py`` of PEFT reads results: every key that it takes, and its types."""
    report = bench_methods(
        ModelSource(str(model_dir)),
        DataSource(str(table), max_train_rows=64),
        methods=("lora", "head"),
        epochs=1.0,
        seeds=1,
        output=tmp_path / "mine",
        train=PretendedTraining(),
    )
    assert [cell.state for cell in report.cells] == ["complete", "complete"]
    names = sorted(path.name for path in (tmp_path / "mine" / "results").iterdir())
    assert names == ["head--head-seed42.json", "lora--lora-seed42.json"]
    row = json.loads((tmp_path / "mine" / "results" / names[1]).read_text())
    run, train, meta = row["run_info"], row["train_info"], row["meta_info"]
    assert train["status"] == "success"
    last = train["metrics"][-1]
    assert last["test accuracy"] == pytest.approx(0.9)
    for name in ("accelerator_memory_reserved_avg", "accelerator_memory_max", "accelerator_memory_reserved_99th"):
        assert isinstance(train[name], int)
    assert (last["train samples"], isinstance(last["train total tokens"], int)) == (64, True)
    assert float(run["total_time"]) >= 0 and float(train["train_time"]) == 2.0 and isinstance(train["file_size"], int)
    assert run["train_config"]["model_id"] and run["experiment_name"] == "lora/lora-seed42" and "created_at" in run
    assert {f"{name}-version" for name in ("peft", "transformers", "datasets", "torch", "bitsandbytes")} <= set(
        meta["package_info"]
    )
    assert "system_info" in meta and "peft_branch" in run and "peft_config" in run


def test_a_comparison_needs_methods(model_dir: Path, table: Path) -> None:  # noqa: F811
    with pytest.raises(InputError, match="a comparison needs methods"):
        bench_methods(ModelSource(str(model_dir)), DataSource(str(table)))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nope"], "there is no suite 'nope'"),
        (["roberta-imdb", "--records", "{tmp}"], "--records must be a folder of a suite"),
        (["roberta-imdb", "--scale", "smoke", "--data", "{tmp}/none.csv"], "none.csv"),
        (["roberta-imdb", "--scale", "smoke", "--data", "{table}", "--text-column", "body"], "body"),
        (["roberta-imdb", "--scale", "smoke", "--data", "{empty}"], "empty.jsonl"),
        (["roberta-imdb", "--scale", "smoke", "--model", "{tmp}/none", "--data", "{table}"], "none"),
        (["roberta-imdb", "--scale", "smoke", "--label-column", "label"], "columns belong to --data"),
        (["peft-methods", "{model}", "--data", "{table}"], "a comparison needs methods"),
    ],
)
def test_bad_input_is_one_screen(
    words: list[str],
    message: str,
    advisor: Any,  # noqa: F811
    model_dir: Path,  # noqa: F811
    table: Path,  # noqa: F811
    home: None,
    tmp_path: Path,
) -> None:
    (tmp_path / "empty.jsonl").touch()
    places = {"tmp": tmp_path, "table": table, "model": model_dir, "empty": tmp_path / "empty.jsonl"}
    arguments = [word.format(**places) for word in words]
    own_model = [] if "--model" in words or len(words) < 4 or "--scale" not in words else ["--model", str(model_dir)]
    answer = advisor("bench", *arguments, *own_model)
    assert answer.code == 2
    assert message in answer.stderr
    assert len(answer.stderr.strip().splitlines()) < 20
