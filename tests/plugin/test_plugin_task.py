"""A task, a metric and a data set of another distribution go through every job."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from advisor.core.device import DeviceProfile
from advisor.core.errors import InputError
from advisor.core.metrics import METRICS, get_metric
from advisor.core.plan import ExecutionPlan, load_plan
from advisor.core.run import RunRecord
from advisor.core.serialization import from_dict
from advisor.core.tasks import TASKS, task_traits
from advisor.strategies import get_strategy
from advisor.tracing.step import TraceRequest, trace_step
from advisor.training.data.named import DATASETS
from advisor.training.models import inspect_model
from tests.cli.conftest import Advisor

TASK, METRIC, DATA = "rating-classification", "rating_distance", "film-ratings"


@pytest.mark.usefixtures("plugin")
def test_installed_objects_are_listed_last() -> None:
    assert (TASKS.names()[-1], METRICS.names()[-1], DATASETS.names()[-1]) == (TASK, METRIC, DATA)
    assert task_traits(TASK).metric is get_metric(METRIC)
    assert TASKS.code_version(TASK)


def test_nothing_is_left_of_them() -> None:
    for registry, name in ((TASKS, TASK), (METRICS, METRIC), (DATASETS, DATA)):
        with pytest.raises(InputError, match=f"'{name}'"):
            registry.get(name)


@pytest.mark.usefixtures("plugin")
def test_a_traced_step_computes_the_tasks_own_loss(model_dir: Path) -> None:
    spec = inspect_model(str(model_dir), TASK, num_labels=3)
    strategy = get_strategy("head").default_config(spec)
    trace = trace_step(TraceRequest(spec, strategy, ExecutionPlan(4, attn_implementation="sdpa"), 32))
    phases = {op.phase for op in trace.recording.operators if op.name.startswith("cumsum")}
    assert {"forward", "evaluation"} <= phases


@pytest.mark.usefixtures("plugin")
def test_its_cost_is_predicted_and_its_quality_is_not(
    advisor: Advisor,
    cpu_profile: DeviceProfile,
    model_dir: Path,
) -> None:
    call = ("predict", model_dir, "--data", DATA, "--method", "head", "--seq-length", "32", "--json", "--task")
    own, built_in = advisor(*call, TASK), advisor(*call, "sequence-classification")
    assert own.code == 0, own.stderr
    assert own.json["trainable_parameters"] == built_in.json["trainable_parameters"]
    assert own.json["quality"]["metric"] == METRIC
    assert own.json["quality"]["value"] is None and "no published comparison" in own.json["quality"]["reason"]


@pytest.mark.usefixtures("plugin")
def test_recommend_run_and_verify(
    advisor: Advisor,
    cpu_profile: DeviceProfile,
    model_dir: Path,
    tmp_path: Path,
) -> None:
    plan_file, out = tmp_path / "plan.json", tmp_path / "out"
    answer = advisor(
        "recommend", model_dir, "--data", DATA, "--task", TASK, "--memory", "4GiB", "--methods", "head,lora",
        "--epochs", "2", "--effective-batch-size", "8", "--output", plan_file,
    )  # fmt: skip
    assert answer.code == 0, answer.stderr
    plan = load_plan(plan_file)
    assert (plan.model.task, plan.data.source, plan.model.num_labels) == (TASK, DATA, 3)
    assert plan.data_profile.label_names == ("1", "2", "3")

    ran = advisor("run", plan_file, "--output", out)
    assert ran.code == 0, ran.stderr
    record = from_dict(RunRecord, json.loads((out / "record.json").read_text()), what="record")
    assert record.measurement.outcome == "completed"
    assert 0 <= record.measurement.metrics[METRIC] <= 2
    assert set(record.measurement.metrics) == {METRIC, "accuracy", "eval_loss"}
    verdicts = {item.quantity: item for item in record.verifications}
    assert verdicts["memory.allocated_bytes"].relative_error == pytest.approx(0, abs=0.02)
    config = json.loads((out / "model" / "adapter_config.json").read_text()) if plan.strategy.rank else {}
    assert config.get("task_type", "SEQ_CLS") == "SEQ_CLS"


@pytest.mark.usefixtures("plugin")
def test_a_study_searches_the_lowest_distance(
    advisor: Advisor,
    cpu_profile: DeviceProfile,
    model_dir: Path,
    tmp_path: Path,
) -> None:
    answer = advisor(
        "tune", model_dir, "--data", DATA, "--task", TASK, "--memory", "4GiB", "--methods", "head", "--trials", "2",
        "--budget", "10min", "--effective-batch-size", "8", "--study-dir", tmp_path / "study", "--json",
    )  # fmt: skip
    assert answer.code == 0, answer.stderr
    result = answer.json
    assert result["metric_name"] == METRIC
    figures = [trial["evaluations"][-1]["metric"] for trial in result["trials"] if trial["verdict"] == "completed"]
    assert figures and all(0 <= figure <= 2 for figure in figures)
    assert result["pareto"][0]["metric"] == min(point["metric"] for point in result["pareto"])
