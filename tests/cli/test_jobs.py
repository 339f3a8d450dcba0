"""The whole loop through the command line: recommend, predict, run, verify, and again without overwriting anything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from advisor.core.device import DeviceProfile
from advisor.core.plan import load_plan
from advisor.core.run import RunRecord
from advisor.core.serialization import from_dict
from tests.cli.conftest import Advisor


@pytest.fixture
def plan_file(advisor: Advisor, model_dir: Path, table: Path, cpu_profile: DeviceProfile, tmp_path: Path) -> Path:
    """A plan for the pretended machine, as ``recommend`` writes it."""
    plan = tmp_path / "plans" / "plan.json"
    answer = advisor(
        "recommend", model_dir, "--data", table, "--memory", "4GiB", "--methods", "lora,head", "--epochs", "1",
        "--effective-batch-size", "8", "--output", plan, "--json",
    )  # fmt: skip
    assert answer.code == 0, answer.stderr
    assert answer.json["plan_path"] == str(plan)
    assert {ranked["method"] for ranked in answer.json["ranked"]} == {"lora", "head"}
    assert all(ranked["cost"]["memory"]["device_bytes"] < 4 * 2**30 for ranked in answer.json["ranked"])
    return plan


def test_recommend_predict_run_and_verify(advisor: Advisor, plan_file: Path, tmp_path: Path) -> None:
    plan = load_plan(plan_file)
    assert plan.execution.effective_batch_size == 8
    assert plan.strategy.num_train_epochs == 1
    assert plan.versions["transformers"]

    predicted = advisor("predict", "--plan", plan_file, "--json")
    assert predicted.code == 0, predicted.stderr
    assert predicted.json["memory"]["allocated_bytes"] == plan.predicted.memory.allocated_bytes

    out = tmp_path / "out"
    ran = advisor("run", plan_file, "--output", out)
    assert ran.code == 0, ran.stderr
    assert "Predicted vs measured" in ran.stdout
    assert "allocated peak" in ran.stdout
    record = from_dict(RunRecord, json.loads((out / "record.json").read_text()), what="record")
    assert record.measurement.outcome == "completed"
    assert 0 <= record.measurement.metrics["accuracy"] <= 1
    verdicts = {item.quantity: item for item in record.verifications}
    assert verdicts["trainable_parameters"].verdict == "inside"
    assert verdicts["memory.allocated_bytes"].relative_error == pytest.approx(0, abs=0.02)
    assert verdicts["saved_bytes"].verdict == "inside" and verdicts["time.latency_s"].measured > 0

    before = (out / "record.json").read_bytes()
    again = advisor("run", plan_file, "--output", out)
    assert again.code == 2
    assert "--resume" in again.stderr
    finished = advisor("run", plan_file, "--output", out, "--resume", "--json")
    assert finished.code == 0, finished.stderr
    assert finished.json["outcome"] == "completed"
    assert (out / "record.json").read_bytes() == before


def test_nothing_fits_is_an_answer_with_its_own_exit_code(
    advisor: Advisor, model_dir: Path, table: Path, cpu_profile: DeviceProfile, tmp_path: Path
) -> None:
    call = ("recommend", model_dir, "--data", table, "--memory", "100MiB", "--methods", "head", "--output")
    answer = advisor(*call, tmp_path / "plan.json")
    assert answer.code == 3
    assert "No plan fits within 100 MiB" in answer.stdout
    as_json = advisor(*call, tmp_path / "plan.json", "--json")
    assert as_json.code == 3
    assert as_json.json["ranked"] == []
    assert as_json.json["advice"]
    assert as_json.json["plan_path"] is None
    assert not (tmp_path / "plan.json").exists()


def test_listings(advisor: Advisor, cpu_profile: DeviceProfile) -> None:
    devices = {profile["id"] for profile in advisor("devices", "--json").json}
    assert {"t4", "rtx-4060", "rtx-4090", "a100-sxm4-80gb", "cpu-test"} <= devices
    assert "cpu-test" in advisor("devices").stdout
    methods = [method["name"] for method in advisor("methods", "--json").json]
    assert methods[:3] == ["full", "partial", "head"]
    assert len(methods) >= 10
    assert "QLoRA" in advisor("methods").stdout


def test_predicting_a_bare_configuration_for_a_card_that_is_not_here(advisor: Advisor) -> None:
    config = Path(__file__).parents[1] / "fixtures" / "configs" / "distilbert-base-uncased.json"
    call = ("predict", config, "--task", "sequence-classification", "--method", "lora", "--device", "t4")
    answer = advisor(*call, "--json")
    assert answer.code == 0, answer.stderr
    cost = answer.json
    assert cost["memory"]["breakdown"]["weights_bytes"] > 4 * 66_000_000
    assert sum(cost["memory"]["breakdown"].values()) == cost["memory"]["device_bytes"]
    assert cost["fits"] is True
    small = advisor(*call, "--memory", "300MiB", "--json")
    assert small.json["fits"] is False
    table = advisor(*call).stdout
    assert "datasheet" in table
    assert "device peak" in table


def test_a_profile_has_the_rows_that_were_asked_for(
    advisor: Advisor, model_dir: Path, cpu_profile: DeviceProfile
) -> None:
    asked = ("--methods", "lora", "--micro-batch-size", "2", "--max-seq-length", "16")
    answer = advisor("bench", "profile", model_dir, "--task", "sequence-classification", *asked, "--json")
    [profile] = answer.json["profiles"]
    assert (profile["method"], profile["micro_batch_size"], profile["seq_length"]) == ("lora", 2, 16)
    assert sum(row["measured_s"] for row in profile["families"]) == pytest.approx(profile["step_s"])
