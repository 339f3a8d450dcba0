"""Every switch of ``advisor predict`` reaches the prediction, or is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from advisor.core.plan import ExecutionPlan
from advisor.core.serialization import to_dict
from advisor.pipeline.inputs import inspect
from advisor.pipeline.predicting import predict, stored_dtype
from tests.cli.conftest import Advisor

CONFIGS = Path(__file__).resolve().parents[1] / "fixtures" / "configs"

SHORT = ("--seq-length", "16", "--micro-batch-size", "2", "--device", "rtx-3090", "--json")


def device_bytes(answer: object) -> int:
    return int(answer.json["memory"]["device_bytes"])  # type: ignore[attr-defined]


def test_the_model_is_an_argument_or_an_option_but_not_both(advisor: Advisor, model_dir: Path) -> None:
    named = advisor("predict", "--model", model_dir, "--method", "full", *SHORT)
    argument = advisor("predict", model_dir, "--method", "full", *SHORT)
    assert named.code == argument.code == 0
    assert named.json == argument.json
    both = advisor("predict", model_dir, "--model", model_dir)
    assert both.code == 2
    assert "one model must be named" in both.stderr
    assert advisor("predict").code == 2


@pytest.mark.parametrize(
    ("switches", "words"),
    [
        (("--method", "full", "--optim", "lorafa"), "trains LoRA adapters, but the method is full"),
        (("--method", "full", "--loss", "fused-linear"), "causal-lm"),
        (("--method", "lora", "--kbit-upcast"), "4-bit weights"),
        (("--method", "full", "--reentrant-checkpointing"), "gradient checkpointing, but that is off"),
        (("--method", "full", "--device", "no-such-card"), "no-such-card"),
    ],
)
def test_switches_that_do_not_go_together(
    advisor: Advisor, model_dir: Path, switches: tuple[str, ...], words: str
) -> None:
    answer = advisor("predict", model_dir, "--device", "rtx-3090", *switches)
    assert answer.code == 2
    assert words in " ".join(answer.stderr.split())


def test_switches_change_the_prediction(advisor: Advisor, model_dir: Path) -> None:
    plain = advisor("predict", model_dir, "--method", "full", *SHORT)
    plainer = advisor("predict", model_dir, "--method", "full", "--optim", "sgd", *SHORT)
    states = "optimizer_states_bytes"
    assert plain.json["memory"]["breakdown"][states] > plainer.json["memory"]["breakdown"][states] == 0
    safer = advisor("predict", model_dir, "--method", "full", "--memory", "300MB", "--safety-level", "0.99", *SHORT)
    assert safer.json["fits"] is False


def test_the_command_and_the_function_have_the_same_defaults(advisor: Advisor, model_dir: Path, table: Path) -> None:
    command = advisor("predict", model_dir, "--method", "full", "--data", table, *SHORT)
    execution = ExecutionPlan(2, max_seq_length=16)
    function = predict(str(model_dir), method="full", data=str(table), execution=execution, device="rtx-3090")
    assert command.json["memory"] == to_dict(function)["memory"]
    assert command.json["time"]["parts"]["evaluation"] == to_dict(function)["time"]["parts"]["evaluation"]


def test_a_run_without_evaluation_needs_neither_its_memory_nor_its_time(
    advisor: Advisor, model_dir: Path, table: Path
) -> None:
    """A classifier whose evaluation batches are far larger than its micro-batches."""
    asked = ("predict", model_dir, "--data", table, "--eval-batch-size", "512", *SHORT)
    evaluated, training = advisor(*asked), advisor(*asked, "--no-evaluation")
    assert training.code == 0, training.stderr
    assert evaluated.json["memory"]["peak_phase"] == "evaluation" != training.json["memory"]["peak_phase"]
    assert device_bytes(training) < device_bytes(evaluated)
    times = [answer.json["time"] for answer in (evaluated, training)]
    assert times[0]["parts"]["evaluation"] > times[1]["parts"]["evaluation"] == 0
    assert times[0]["parts"]["training"] == times[1]["parts"]["training"]
    assert times[1]["inference"] is None
    assert "without evaluation" in " ".join(training.json["notes"])


@pytest.mark.parametrize(
    ("values", "dtype"),
    [({}, "float32"), ({"torch_dtype": "bfloat16"}, "bfloat16"), ({"dtype": "float16"}, "float16")],
)
def test_weights_are_loaded_as_they_are_stored(
    model_dir: Path, tmp_path: Path, values: dict[str, str], dtype: str
) -> None:
    config = json.loads((model_dir / "config.json").read_text())
    config.pop("dtype", None), config.pop("torch_dtype", None)
    (tmp_path / "config.json").write_text(json.dumps(config | values))
    assert stored_dtype(inspect(str(tmp_path / "config.json"), task="masked-lm")) == dtype


def test_speed_knobs_are_taken_and_refused_by_device(advisor: Advisor, model_dir: Path, table: Path) -> None:
    fast = ("--tf32", "--torch-compile", "--group-by-length")
    plain, faster = (advisor("predict", model_dir, "--data", table, *SHORT, *more) for more in ((), fast))
    assert faster.code == 0, faster.stderr
    assert faster.json["memory"]["allocated_bytes"] == plain.json["memory"]["allocated_bytes"]
    training_s = [answer.json["time"]["parts"]["training"] for answer in (faster, plain)]
    assert training_s[0] <= training_s[1]
    told = " ".join(faster.json["notes"])
    assert all(words in told for words in ("similar length", "10 of 23 bits", "not compiled"))
    refused = advisor("predict", model_dir, "--device", "t4", "--tf32", "--num-threads", "2")
    assert refused.code == 2
    assert "compute capability 8.0, but t4" in " ".join(refused.stderr.split())
    assert "t4 is a GPU" in " ".join(refused.stderr.split())
