"""A run end to end: it learns, it reports what it did, and what it saves comes back the same."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from advisor.core.errors import DeviceError, OutputError, PlanError
from advisor.core.metrics import CLASSIFICATION, LOSS
from advisor.core.plan import Plan
from advisor.core.run import Measurement
from advisor.training.run_folder import RunFolder
from advisor.training.switches import backend_of_plan
from advisor.training.trainer import train
from tests.training import training_runs


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return training_runs.tiny_plan(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def finished(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Measurement, list[dict[str, Any]]]:
    output, events = tmp_path_factory.mktemp("runs") / "run", []
    return output, train(plan, output, on_event=events.append), events


def test_the_run_learns_and_accounts_for_every_step(finished: tuple[Path, Measurement, list[dict[str, Any]]]) -> None:
    _, measurement, _ = finished
    assert measurement.outcome == "completed"
    assert measurement.metrics["accuracy"] >= 0.8
    assert {LOSS.name, *(metric.name for metric in CLASSIFICATION)} == set(measurement.metrics)
    assert len(measurement.step_times_s) == 2 * 40
    assert [step for step, _ in measurement.metric_history] == [40, 80]
    parts_s = measurement.loading_s + measurement.training_s + measurement.evaluation_s + measurement.saving_s
    assert 0 < sum(measurement.step_times_s) <= measurement.training_s <= parts_s <= measurement.total_s
    assert 0 < measurement.trainable_parameters < measurement.total_parameters


def test_events_tell_phases_steps_and_metrics(finished: tuple[Path, Measurement, list[dict[str, Any]]]) -> None:
    _, measurement, events = finished
    assert [event["name"] for event in events if event["kind"] == "phase"] == ["loading", "training", "saving"]
    steps = [event for event in events if event["kind"] == "step"]
    assert steps[-1]["step"] == steps[-1]["total"] == 80
    last = [event["metrics"] for event in events if event["kind"] == "metrics"][-1]
    assert last == {name: measurement.metrics[name] for name in ("accuracy", "eval_loss")}
    assert "f1_macro" in measurement.metrics  # scikit-learn's come after the run


def test_the_saved_model_reloads_with_peft_alone_and_answers_the_same(
    plan: Plan, finished: tuple[Path, Measurement, list[dict[str, Any]]]
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from advisor.training.data import prepare_data

    output, measurement, _ = finished
    folder = RunFolder(output)
    tokenizer = AutoTokenizer.from_pretrained(folder.model)
    model = PeftModel.from_pretrained(
        AutoModelForSequenceClassification.from_pretrained(plan.model.source), folder.model
    )
    data = prepare_data(plan.data, plan.model, tokenizer, max_seq_length=32)
    batch = data.collator([data.eval_dataset[index] for index in range(len(data.eval_dataset))])
    with torch.no_grad():
        output_of_reloaded = model.eval()(**batch)
    assert float(output_of_reloaded.loss) == pytest.approx(measurement.metrics["eval_loss"], abs=1e-5)
    assert not list(output.rglob("*.bin")) or all(path.name == "training_args.bin" for path in output.rglob("*.bin"))


def test_a_saved_adapter_answers_with_the_users_labels(
    finished: tuple[Path, Measurement, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from peft import AutoPeftModelForSequenceClassification
    from transformers import pipeline

    saved = (finished[0] / "model").absolute()
    monkeypatch.chdir(tmp_path)
    names = AutoPeftModelForSequenceClassification.from_pretrained(saved).config.id2label
    assert sorted(names.values()) == ["negative", "positive"]
    [answer] = pipeline("text-classification", model=str(saved), device="cpu")("a good film")
    assert answer["label"] in ("negative", "positive")
    assert all(path.is_symlink() for path in (saved / "base").glob("*.safetensors")), "weights are not copied"


def test_an_adapter_of_a_hub_model_that_is_not_cached_keeps_its_base(tmp_path: Path) -> None:
    from types import SimpleNamespace

    from transformers import BertConfig

    from advisor.training.run_folder import base_for_adapter

    written = json.dumps({"base_model_name_or_path": "organisation/model"})
    (tmp_path / "adapter_config.json").write_text(written)
    base_for_adapter(tmp_path, tmp_path / "base", SimpleNamespace(config=BertConfig(id2label={0: "no", 1: "yes"})))
    assert (tmp_path / "adapter_config.json").read_text() == written
    assert not (tmp_path / "base").exists()


@pytest.mark.slow
def test_an_adapter_of_a_hub_model_answers_with_the_users_labels(plan: Plan, tmp_path: Path) -> None:
    """A folder poses as the cache. In a process of its own, because the cache's place is read on import."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "hub" / "models--someone--tiny" / "snapshots" / commit
    shutil.copytree(plan.model.source, snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(commit)
    plan.save(tmp_path / "plan.json")
    code = (
        "import dataclasses, sys\n"
        "from pathlib import Path\n"
        "from advisor.core.plan import load_plan\n"
        "from advisor.training.models import inspect_model\n"
        "from advisor.training.trainer import train\n"
        "spec = inspect_model('someone/tiny', 'sequence-classification')\n"
        "print(spec.revision)\n"
        "train(dataclasses.replace(load_plan(Path('plan.json')), model=spec), Path('out'))\n"
        "from peft import AutoPeftModelForSequenceClassification as Auto\n"
        "print(sorted(Auto.from_pretrained('out/model').config.id2label.values()))\n"
        "from transformers import pipeline\n"
        "print(pipeline('text-classification', model='out/model', device='cpu')('a good film')[0]['label'])\n"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "hub")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=200, env=environment, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    revision, names, answer = done.stdout.splitlines()[-3:]
    assert revision == commit
    assert names == "['negative', 'positive']" and answer in ("negative", "positive")
    assert json.loads((tmp_path / "out/model/base/config.json").read_text())["_name_or_path"] == "someone/tiny"
    assert "base_model: someone/tiny" in (tmp_path / "out/model/README.md").read_text()


def test_an_occupied_folder_is_refused_and_left_alone(plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match=r"must be empty.*thesis\.txt"):
        train(plan, tmp_path)
    with pytest.raises(OutputError, match=r"thesis\.txt"):
        train(plan, tmp_path, resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_finished_run_is_not_run_again(plan: Plan, finished: tuple[Path, Measurement, list[dict[str, Any]]]) -> None:
    output, measurement, _ = finished
    with pytest.raises(OutputError, match="holds a run of this plan"):
        train(plan, output)
    assert train(plan, output, resume=True).metrics == measurement.metrics


def test_another_plan_cannot_continue_the_run(
    plan: Plan, finished: tuple[Path, Measurement, list[dict[str, Any]]]
) -> None:
    output, _, _ = finished
    other = dataclasses.replace(plan, seed=8, strategy=dataclasses.replace(plan.strategy, learning_rate=1e-4))
    with pytest.raises(OutputError, match="strategy, seed differ"):
        train(other, output, resume=True)


def test_the_time_limit_leaves_a_checkpoint(plan: Plan, tmp_path: Path) -> None:
    from advisor.training.checkpoints import newest_complete, step_of

    slow = dataclasses.replace(plan, strategy=dataclasses.replace(plan.strategy, num_train_epochs=500.0))
    measurement = train(slow, tmp_path / "run", time_limit_s=1)
    assert measurement.outcome == "over_time"
    assert "time limit" in measurement.reason
    checkpoint = newest_complete(RunFolder(tmp_path / "run").checkpoints)
    assert checkpoint is not None
    assert step_of(checkpoint) == len(measurement.step_times_s)


def test_two_runs_of_one_plan_are_the_same_to_the_bit(
    plan: Plan, finished: tuple[Path, Measurement, list[dict[str, Any]]], tmp_path: Path
) -> None:
    output, measurement, _ = finished
    again = train(plan, tmp_path / "again")
    assert again.metrics == measurement.metrics
    assert again.train_losses == measurement.train_losses
    weights = "model/adapter_model.safetensors"
    assert (tmp_path / "again" / weights).read_bytes() == (output / weights).read_bytes()


def test_whole_models_are_saved_with_the_users_labels(plan: Plan, tmp_path: Path) -> None:
    from advisor.core.strategy import StrategyConfig

    strategy = StrategyConfig("full", 1e-3, num_train_epochs=0.5)
    full = dataclasses.replace(plan, strategy=strategy)
    measurement = train(full, tmp_path / "run")
    assert len(measurement.step_times_s) == 20
    config = json.loads((tmp_path / "run/model/config.json").read_text())
    assert set(config["label2id"]) == {"negative", "positive"}
    assert (tmp_path / "run/model/model.safetensors").exists()


def test_a_plan_for_a_gpu_is_refused_without_one(plan: Plan) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(DeviceError, match="made for t4"):
        backend_of_plan(dataclasses.replace(plan, device="t4"))


def test_fp16_needs_a_gpu(plan: Plan) -> None:
    with pytest.raises(PlanError, match="fp16"):
        backend_of_plan(dataclasses.replace(plan, execution=dataclasses.replace(plan.execution, amp="fp16")))
