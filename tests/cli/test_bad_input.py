"""Bad input ends with exit code 2, the rule and the value on one screen, no traceback, and nothing overwritten."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from advisor.core.plan import load_plan
from tests.cli.conftest import Advisor, Answer
from tests.core.records import make_plan


def refused(answer: Answer, *texts: str) -> None:
    """The command ended with exit code 2, said ``texts`` on standard error, and nothing on standard output."""
    assert answer.code == 2, answer.stderr
    assert answer.stdout == ""
    assert "error:" in answer.stderr
    for text in texts:
        assert text in answer.stderr
    assert len(answer.stderr.splitlines()) <= 24


@pytest.mark.parametrize("memory", ["0GiB", "8", "-8GiB", "lots", "8 GiBs"])
def test_impossible_memory_budgets(advisor: Advisor, memory: str) -> None:
    refused(advisor("recommend", "m", "--data", "d", f"--memory={memory}"), repr(memory), "8GiB")


@pytest.mark.parametrize("time", ["0s", "-1h", "2", "soon"])
def test_impossible_time_budgets(advisor: Advisor, time: str) -> None:
    refused(advisor("recommend", "m", "--data", "d", f"--time={time}"), repr(time), "90min")


@pytest.mark.parametrize(
    ("given", "texts"),
    [
        ("--max-latency=0ms", ["latency", "20ms"]),
        ("--max-latency=-5ms", ["'-5ms'", "20ms"]),
        ("--max-latency=20", ["'20'", "20ms"]),
        ("--max-saved-size=0MB", ["saved size", "'0MB'", "800MB"]),
        ("--max-saved-size=small", ["'small'"]),
        ("--max-energy=0Wh", ["'0Wh'", "40kJ"]),
        ("--max-energy=3parsec", ["'3parsec'", "20Wh"]),
    ],
)
@pytest.mark.parametrize("command", ["predict", "fit", "recommend", "tune"])
def test_impossible_limits_of_the_model(advisor: Advisor, command: str, given: str, texts: list[str]) -> None:
    refused(advisor(command, "m", given), *texts)


def test_energy_is_limited_only_where_it_is_known(
    advisor: Advisor, model_dir: Path, table: Path, cpu_profile: object
) -> None:
    limit = ("--max-energy", "20Wh")
    task = ("--task", "sequence-classification", "--device", "t4")
    refused(advisor("predict", model_dir, *task, *limit), "--data", "--max-energy")
    refused(advisor("fit", model_dir, *task, *limit), "--data")
    refused(advisor("recommend", model_dir, "--data", table, *limit), "the power of", "advisor run", "--time")


@pytest.mark.parametrize("objective", ["cheapest", "fastest"])
def test_a_cost_needs_a_floor(advisor: Advisor, objective: str, tmp_path: Path) -> None:
    refused(advisor("recommend", "m", "--data", "d", "--objective", objective), objective, "--min-quality")
    study = ("--study-dir", tmp_path / "study")
    refused(advisor("tune", "m", "--data", "d", *study, "--objective", objective), objective, "--min-quality")
    assert not (tmp_path / "study").exists()
    refused(advisor("recommend", "m", "--data", "d", "--objective", "best"), "best", "cheapest")
    refused(advisor("tune", "m", "--data", "d", *study, "--energy-budget=0Wh"), "energy", "20Wh")


def test_a_floor_beyond_the_metric(advisor: Advisor, model_dir: Path, table: Path) -> None:
    answer = advisor("recommend", model_dir, "--data", table, "--device", "t4", "--min-quality", "80")
    refused(answer, "accuracy", "0.8", "80")


def test_unknown_commands_and_options_name_near_ones(advisor: Advisor) -> None:
    refused(advisor("recomend"), "did you mean recommend")
    refused(advisor("predict", "m", "--sequence-length", "3"), "--sequence-length")
    refused(advisor("recommend", "m"), "--data")


def test_unknown_devices_and_methods_name_near_ones(advisor: Advisor, model_dir: Path, table: Path) -> None:
    refused(advisor("recommend", model_dir, "--data", table, "--device", "rtx-4600"), "rtx-4060")
    refused(advisor("recommend", model_dir, "--data", table, "--methods", "lora,qlor", "--device", "t4"), "qlora")
    refused(advisor("predict", model_dir, "--method", "lorra", "--device", "t4"), "lora")
    refused(advisor("predict", model_dir, "--method", "lora", "--device", "gtx"), "known profiles")


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (["--rank", "0"], ["--rank"]),
        (["--rank", "64"], ["rank", "64", "32"]),
        (["--seq-length", "65"], ["64 positions"]),
        (["--sparsity", "1.5"], ["--sparsity"]),
        (["--method", "partial", "--unfrozen-layers", "9"], ["9", "2"]),
        (["--dtype", "int8"], ["--dtype"]),
        (["--method", "peft"], ["--peft-config"]),
        (["--method", "peft", "--peft-config", "/nowhere.json"], ["/nowhere.json"]),
        (["--target-modules", "no_such_module"], ["no_such_module"]),
    ],
)
def test_knobs_that_do_not_fit_the_model(
    advisor: Advisor, model_dir: Path, arguments: list[str], texts: list[str]
) -> None:
    answer = advisor("predict", model_dir, "--task", "sequence-classification", "--device", "t4", *arguments)
    refused(answer, *texts)


def test_models_that_are_not_there_or_not_known(advisor: Advisor, tmp_path: Path) -> None:
    refused(advisor("predict", tmp_path / "none", "--device", "t4"), "no model at")
    refused(advisor("predict", tmp_path, "--device", "t4", "--task", "causal-lm"), str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "perceptron", "hidden_size": 4}))
    refused(advisor("predict", tmp_path, "--device", "t4", "--task", "causal-lm"), "perceptron")
    (tmp_path / "config.json").write_text("{ not json")
    refused(advisor("predict", tmp_path, "--device", "t4", "--task", "causal-lm"), "config.json")


def test_models_that_are_damaged_or_not_trusted(advisor: Advisor, model_dir: Path, tmp_path: Path) -> None:
    call = ("--task", "sequence-classification", "--device", "t4")
    damaged = tmp_path / "damaged"
    shutil.copytree(model_dir, damaged)
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    refused(advisor("predict", damaged, *call), "safetensors", "bytes")

    pickled = tmp_path / "pickled"
    shutil.copytree(model_dir, pickled)
    (pickled / "model.safetensors").unlink()
    (pickled / "pytorch_model.bin").write_bytes(pickle.dumps({}))
    refused(advisor("predict", pickled, *call), "--allow-pickle")

    foreign = tmp_path / "foreign"
    shutil.copytree(model_dir, foreign)
    config = json.loads((foreign / "config.json").read_text())
    config |= {"model_type": "foreign", "auto_map": {"AutoModel": "modeling_foreign.Foreign"}}
    (foreign / "config.json").write_text(json.dumps(config))
    refused(advisor("predict", foreign, *call), "--trust-remote-code")


def test_data_that_cannot_be_used(advisor: Advisor, model_dir: Path, table: Path, tmp_path: Path) -> None:
    def recommend(data: Path, *options: str) -> Answer:
        return advisor("recommend", model_dir, "--data", data, "--device", "t4", *options)

    refused(recommend(tmp_path / "none.csv", "--text-column", "t", "--label-column", "l"), "none.csv")
    refused(recommend(table, "--text-column", "sentence", "--label-column", "label"), "sentence", "text")

    empty = tmp_path / "empty.csv"
    empty.write_text("text,label\n")
    refused(recommend(empty, "--text-column", "text", "--label-column", "label"), "row")

    one_class = tmp_path / "one.csv"
    one_class.write_text("text,label\n" + "".join(f"sentence {i},good\n" for i in range(50)))
    refused(recommend(one_class, "--text-column", "text", "--label-column", "label"), "good")


def test_sequences_longer_than_the_positions(advisor: Advisor, model_dir: Path, table: Path) -> None:
    answer = advisor("recommend", model_dir, "--data", table, "--device", "t4", "--max-seq-length", "100")
    refused(answer, "100", "64")


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"schema_version": 1}', '{"schema_version": 99, "x": 1}'])
def test_plans_that_are_damaged_or_newer(advisor: Advisor, tmp_path: Path, text: str) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(text)
    for command in (("run", plan, "--output", tmp_path / "out"), ("predict", "--plan", plan)):
        refused(advisor(*command), "plan")
    assert not (tmp_path / "out").exists()


def test_a_missing_plan(advisor: Advisor, tmp_path: Path) -> None:
    refused(advisor("show", tmp_path / "no.json", "--why"), "no.json")
    refused(advisor("show", tmp_path), "plan.json")
    refused(advisor("run", tmp_path / "plan.json", "--output", tmp_path / "out"), "plan.json")


def test_all_problems_of_a_plan_at_once(advisor: Advisor, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    make_plan().save(path)
    values = json.loads(path.read_text())
    values["strategy"]["rank"] = "eight"
    values["seeed"] = 1
    path.write_text(json.dumps(values))
    refused(advisor("run", path, "--output", tmp_path / "out"), "strategy.rank", "seeed")


def test_an_existing_plan_is_not_overwritten(advisor: Advisor, model_dir: Path, table: Path, tmp_path: Path) -> None:
    precious = tmp_path / "plan.json"
    precious.write_text("precious")
    refused(advisor("recommend", model_dir, "--data", table, "--device", "t4", "--output", precious), "--force")
    assert precious.read_text() == "precious"


def test_output_folders_that_take_no_files(advisor: Advisor, model_dir: Path, table: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for output in (tmp_path / "file" / "plan.json", Path("/proc/plan.json"), tmp_path):
        refused(advisor("recommend", model_dir, "--data", table, "--device", "t4", "--output", output), "must be")


def test_a_plan_for_another_device_is_not_run_here(
    advisor: Advisor, model_dir: Path, table: Path, tmp_path: Path, cpu_profile: object
) -> None:
    plan = tmp_path / "plan.json"
    answer = advisor(
        "recommend", model_dir, "--data", table, "--device", "t4", "--methods", "head", "--output", plan, "--json"
    )
    assert answer.code == 0, answer.stderr
    assert load_plan(plan).device == "t4"
    refused(advisor("run", plan, "--output", tmp_path / "out"), "t4", "cpu-test", "--any-device")


def test_evidence_needs_this_machine(advisor: Advisor, model_dir: Path, table: Path, cpu_profile: object) -> None:
    answer = advisor("recommend", model_dir, "--data", table, "--device", "t4", "--evidence", "10s")
    refused(answer, "--evidence", "t4")


def test_errors_are_one_json_document_on_request(advisor: Advisor) -> None:
    answer = advisor("recommend", "m", "--data", "d", "--memory", "8", "--json")
    assert answer.code == 2
    assert list(answer.json) == ["error", "message", "problems", "fix", "exit_code"]
    assert answer.json["error"] == "bad_budget"
    assert advisor("recommend", "--json").json["error"] == "bad_usage"


def test_the_exit_code_reaches_the_shell(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "advisor", "run", str(tmp_path / "none.json"), "--output", str(tmp_path / "o")]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert "none.json" in done.stderr


def test_a_profile_needs_a_method_that_takes_steps(advisor: Advisor) -> None:
    answer = advisor("bench", "profile", "minilm", "--methods", "lora,linear_probe")
    assert answer.code == 2 and "linear_probe fits a classifier" in answer.stderr and "fix:" in answer.stderr


def test_a_chrome_trace_is_part_of_a_profile(advisor: Advisor, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text("{}")
    answer = advisor("run", str(plan), "--output", str(tmp_path / "out"), "--chrome-trace")
    assert answer.code == 2 and "--profile" in answer.stderr and not (tmp_path / "out").exists()
