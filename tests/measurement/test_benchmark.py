"""The benchmark core of a run: every figure against what is known of the run, and what it leaves in the folder."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from advisor.core.benchmark import BenchmarkSettings, ModelEvaluation, predictions_file
from advisor.core.errors import DataError, InputError
from advisor.core.metrics import ACCURACY, CLASSIFICATION, LABEL, LOSS, PREDICTED, PROBABILITY
from advisor.core.plan import ExecutionPlan, Plan
from advisor.core.run import Measurement
from advisor.core.serialization import from_dict, to_dict
from advisor.hardware.backends import get_backend
from advisor.measurement.efficiency import drift_figures, efficiency_figures, run_warnings
from advisor.measurement.inference import inference_figures
from advisor.measurement.run import run_in_this_process
from advisor.pipeline.comparing import compare
from advisor.pipeline.evaluating import evaluate
from advisor.training.data.loading import load_rows
from advisor.training.data.predictions import ITEM, read_predictions, write_predictions
from advisor.training.data.rows import row_key
from advisor.training.quality_report import quality_report
from advisor.training.run_samples import FetchedRows, MemorySample, RunSamples, warm_up_steps
from tests.training import training_runs


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    strategy = training_runs.lora_strategy(num_train_epochs=1.0)
    return training_runs.tiny_plan(tmp_path_factory.mktemp("tiny"), rows=60, strategy=strategy)


@pytest.fixture(scope="module")
def finished(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Measurement]:
    output = tmp_path_factory.mktemp("runs") / "run"
    return output, run_in_this_process(plan, output, benchmark=BenchmarkSettings())


def test_predictions_by_item_give_the_reported_figures(plan: Plan, finished: tuple[Path, Measurement]) -> None:
    output, measured = finished
    columns, names = read_predictions(predictions_file(output))
    rows = load_rows(plan.data, plan.model.task).eval
    assert names == ("negative", "positive")
    assert columns[ITEM].tolist() == [row_key(row).hex() for row in rows]
    assert columns[LABEL].tolist() == [row.label for row in rows]  # type: ignore[union-attr]
    assert columns[PROBABILITY].shape == (len(rows), 2)
    assert np.mean(columns[LABEL] == columns[PREDICTED]) == pytest.approx(measured.metrics[ACCURACY.name])
    right = np.take_along_axis(columns[PROBABILITY], columns[LABEL][:, None], axis=1)
    assert -np.log(right).mean() == pytest.approx(measured.metrics[LOSS.name], rel=1e-5)


def test_the_core_says_everything_and_how(finished: tuple[Path, Measurement]) -> None:
    output, measured = finished
    core = measured.benchmark
    assert core is not None and core.quality is not None
    assert set(core.quality.figures) == {metric.name for metric in CLASSIFICATION}
    assert sum(found.items for found in core.quality.classes) == core.quality.items == 12
    assert sum(map(sum, core.quality.confusion)) == sum(bin.items for bin in core.quality.reliability) == 12
    assert all(figure.how for figure in (*core.efficiency.values(), *core.drift.values()))
    assert all(figure.unstable == "only 12 items" for figure in core.quality.figures.values())
    wanted = {"training_s", "samples_per_s", "tokens_per_s", "step_p50_s", "step_p95_s", "step_p99_s", "model_bytes",
              "process_peak_bytes", "resident_peak_bytes", "trainable_parameters", "total_parameters", "saved_bytes",
              "merged_bytes"}  # fmt: skip
    passes = {f"{kind}inference_batch_{n}_{figure}" for kind in ("", "merged_") for n in "1n"
              for figure in ("latency_s", "samples_per_s")}  # fmt: skip
    assert wanted | passes <= set(core.efficiency)
    values = {name: figure.value for name, figure in core.efficiency.items()}
    assert values["saved_bytes"] == (output / "model" / "adapter_model.safetensors").stat().st_size
    assert values["merged_bytes"] < values["model_bytes"]
    assert values["inference_batch_n_samples_per_s"] > values["inference_batch_1_samples_per_s"]
    assert core.efficiency["step_p99_s"].unstable
    assert "1 evaluation along the run" in core.warnings[0]
    assert from_dict(Measurement, to_dict(measured), what="it") == measured


def stepped(
    rows: FetchedRows, batch: int, steps: int, *, begin: int = 0, pause: tuple[int, float] = (0, 0.0)
) -> RunSamples:
    """Samples of a run that fetches its rows in order; ``pause`` says so many seconds of evaluation before a step."""
    paused, clock = [0.0], [100.0]
    samples = RunSamples(rows, batch, lambda: paused[0])
    samples._now = lambda args: (clock[0], paused[0])  # type: ignore[method-assign]
    args = SimpleNamespace(device=SimpleNamespace(type="cpu"))
    state: Any = SimpleNamespace(global_step=begin, max_steps=steps)
    per_epoch = math.ceil(len(rows) / batch)
    samples.on_train_begin(args, state, None)
    for step in range(begin, steps):
        if step == pause[0]:
            paused[0] += pause[1]
            clock[0] += pause[1]
        samples.on_step_begin(args, state, None)
        first = step % per_epoch * batch
        for index in range(first, min(first + batch, len(rows))):
            rows[index]
        clock[0] += 0.5
        state.global_step += 1
        samples.on_step_end(args, state, None)
    return samples


class Lengths(list[int]):
    """Rows whose length is their number."""

    @property
    def lengths(self) -> list[int]:
        return list(self)


class SlowModel(torch.nn.Linear):
    """Takes a tenth of a second for each row."""

    def __init__(self) -> None:
        super().__init__(1, 1)
        self.config, self.rows = SimpleNamespace(), list[int]()

    def forward(self, input_ids: torch.Tensor) -> None:  # type: ignore[override]
        self.rows.append(len(input_ids))
        time.sleep(0.1 * len(input_ids))


def test_a_slow_model_is_timed_in_small_batches() -> None:
    """Thirty-two rows a pass would take three seconds, each of the five passes."""
    model, data = (
        SlowModel(),
        SimpleNamespace(eval_dataset=[0] * 40, collator=lambda rows: {"input_ids": torch.ones(len(rows))}),
    )
    execution = ExecutionPlan(8, eval_batch_size=32)
    figures, notes = inference_figures(model, data, execution, get_backend("cpu").runtime, limit_s=1.0)  # type: ignore[arg-type]
    assert notes == []
    assert model.rows.count(1) in (4, 5)
    assert max(model.rows) in (2, 4) and len(model.rows) <= 12
    assert f"of {max(model.rows)} held-out rows" in figures["inference_batch_n_latency_s"].how
    assert figures["inference_batch_n_latency_s"].unstable == "few passes"


def test_throughput_is_rows_over_the_elapsed_time_of_exactly_these_rows() -> None:
    """10 rows in batches of 4: every third step has 2 rows; 3 of 9 steps are warm-up; 7 s of evaluation inside."""
    rows = FetchedRows(Lengths(range(1, 11)))
    found = stepped(rows, 4, 9, pause=(5, 7.0)).throughput
    assert found is not None and warm_up_steps(9) == 3
    assert (found.steps, found.rows, found.tokens) == (6, 20, 2 * 55)
    assert found.elapsed_s == pytest.approx(6 * 0.5)


def test_a_resumed_run_counts_the_rows_of_this_process() -> None:
    """Steps 4 to 9 of the same run, one of them warm-up: the last two rows of an epoch and a whole epoch follow."""
    found = stepped(FetchedRows(Lengths(range(1, 11))), 4, 9, begin=4).throughput
    assert found is not None
    assert (found.steps, found.rows, found.tokens) == (4, 2 + 10, 9 + 10 + 55)


def test_percentiles_leave_the_warm_up_out() -> None:
    steps = (9.0,) * 5 + tuple(np.linspace(1.0, 2.0, 101))
    figures = efficiency_figures(Measurement("completed", step_times_s=steps), None, 1, 1, Path("nowhere"))
    found = [figures[f"step_p{n}_s"].value for n in (50, 95, 99)]
    assert found == pytest.approx([1.5, 1.95, 1.99])


def test_drift_compares_the_ends() -> None:
    memory = [MemorySample(1, 100, 150, 1000), MemorySample(50, 110, 300, 1200)]
    states = [{"sm_clock_hz": 1.4e9, "temperature_c": 50.0, "slowdowns": "none"},
              {"sm_clock_hz": 1.2e9, "temperature_c": 71.0, "slowdowns": "power cap"}]  # fmt: skip
    found = drift_figures((9.0,) * 5 + (1.0,) * 20 + (1.5,) * 20, memory, states)
    values = {name: figure.value for name, figure in found.items()}
    assert values == pytest.approx(
        {"step_time_share": 0.5, "resident_bytes": 200, "cached_bytes": 140, "lowest_sm_clock_hz": 1.2e9,
         "highest_temperature_c": 71.0, "slowed_share": 0.5}
    )  # fmt: skip
    assert "power cap" in found["slowed_share"].how


def evaluated(*values: float, saved: float) -> Measurement:
    history = tuple((10 * number, {"accuracy": value}) for number, value in enumerate(values, start=1))
    return Measurement("completed", metrics={"accuracy": saved}, metric_history=history)


def test_a_run_whose_best_evaluation_was_never_saved_says_so() -> None:
    assert run_warnings(evaluated(0.5, 0.6, 0.7, 0.8, 0.9, saved=0.9), ACCURACY) == ()
    (warning,) = run_warnings(evaluated(0.5, 0.6, 0.95, 0.8, 0.9, saved=0.9), ACCURACY)
    assert "accuracy 0.950 at step 30, of the saved model 0.900" in warning
    assert run_warnings(evaluated(0.5, 0.6, 0.95, 0.8, 0.9, saved=0.95), ACCURACY) == ()  # the best was kept


def test_predictions_of_any_shape_come_back(tmp_path: Path) -> None:
    tags = np.empty(2, dtype=object)
    tags[:] = [["B", "O"], ["O"]]
    columns = {"tags": tags, "scores": np.array([[0.5, 0.5], [1.0, 0.0]]), "text": np.array(["a", "b"], dtype=object)}
    write_predictions(tmp_path / "p.parquet", columns, items=("x", "y"), label_names=("n", "p"))
    read, names = read_predictions(tmp_path / "p.parquet")
    assert names == ("n", "p")
    assert read["tags"].tolist() == tags.tolist() and read["text"].tolist() == ["a", "b"]
    assert read["scores"].tolist() == columns["scores"].tolist()


def test_metrics_without_a_figure_say_why() -> None:
    columns = {LABEL: np.ones(5, int), PREDICTED: np.ones(5, int), PROBABILITY: np.full((5, 2), 0.5)}
    report = quality_report(CLASSIFICATION, columns, ("n", "p"))
    assert "ROC-AUC is not defined for these items: all items are of one class" in report.notes
    assert report.confusion == ((0, 0), (0, 5))


def held_out_file(plan: Plan, path: Path) -> Path:
    """The rows that the run held out, as a file of their own."""
    found = load_rows(plan.data, plan.model.task)
    rows = [{"text": row.texts[0], "label": found.label_names[row.label]} for row in found.eval]  # type: ignore[union-attr]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return path


def test_the_saved_model_gives_the_same_figures_on_the_same_rows_again(
    plan: Plan, finished: tuple[Path, Measurement], tmp_path: Path
) -> None:
    output, measured = finished
    found = evaluate(output, str(held_out_file(plan, tmp_path / "again.jsonl")))
    assert found.quality.items == 12
    assert found.metrics == pytest.approx(measured.metrics, abs=1e-5)
    folder = output / "evaluations" / "again"
    assert from_dict(ModelEvaluation, json.loads((folder / "evaluation.json").read_text()), what="it") == found

    compared = compare([output, folder])
    (pair,) = compared.pairs
    assert (pair.difference, pair.only_first_wrong, pair.only_second_wrong, pair.mcnemar_p) == (0, 0, 0, 1.0)
    assert compared.items == 12 and compared.lengths and not compared.notes
    assert [group.name for group in compared.classes] == ["negative", "positive"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "a film", "label": "unknown"}], "held-out labels must occur in training, but 'unknown'"),
        ([{"words": "a film", "label": "positive"}], "'text'"),
        ([{"text": "", "label": "positive"}], "must have rows"),
    ],
)
def test_data_that_the_model_cannot_be_measured_on_is_refused(
    finished: tuple[Path, Measurement], tmp_path: Path, rows: list[dict[str, str]], message: str
) -> None:
    file = tmp_path / "new.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)) + "\n")
    with pytest.raises(DataError, match=message):
        evaluate(finished[0], str(file))
    with pytest.raises(DataError, match=r"gone\.csv"):
        evaluate(finished[0], str(tmp_path / "gone.csv"))


def test_a_folder_without_a_model_is_refused(plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no plan\.json"):
        evaluate(tmp_path, "new.jsonl")
    plan.save(tmp_path / "plan.json")
    with pytest.raises(InputError, match="no trained model") as refused:
        evaluate(tmp_path, "new.jsonl")
    assert "--resume" in str(refused.value.fix)
