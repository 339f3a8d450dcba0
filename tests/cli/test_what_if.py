"""``advisor fit`` and ``advisor predict --explain`` from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Advisor


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """One home for the module: later tests find the traces of earlier ones."""
    folder = tmp_path_factory.getbasetemp() / "what-if-home"
    folder.mkdir(exist_ok=True)
    monkeypatch.setenv("ADVISOR_HOME", str(folder))


FIT = ("--task", "sequence-classification", "--device", "rtx-4060", "--method", "lora", "--seq-length", "32")


def test_fit_answers_per_method_and_set_up(advisor: Advisor, model_dir: Path):
    answer = advisor("fit", model_dir, *FIT, "--memory", "1GiB", "--json")
    assert answer.code == 0
    found = answer.json
    assert found["device_id"] == "rtx-4060" and found["fits"]
    assert found["question"]["limit_bytes"] == 2**30
    (method,) = found["methods"]
    assert method["method"] == "lora" and method["fits"]
    assert [s["switches"]["gradient_checkpointing"] for s in method["setups"]] == [False, True]
    for setup in method["setups"]:
        assert setup["micro_batch"]["bound"] == "memory" and setup["micro_batch"]["value"] > 1
        assert setup["micro_batch"]["memory_bytes"] <= 2**30
        assert setup["seq_length"]["value"] == 64 and setup["seq_length"]["bound"] == "positions"
        assert setup["card"]["memory_bytes"] <= setup["card"]["capacity_bytes"]
    assert found["smallest"]["method"] == "lora"
    text = advisor("fit", model_dir, *FIT, "--memory", "1GiB", "--no-cards")
    assert text.code == 0
    assert "What fits into 1.00 GiB on rtx-4060" in text.stdout and "largest batch" in text.stdout
    assert "smallest card" not in text.stdout


def test_fit_says_what_is_needed_when_nothing_fits(advisor: Advisor, model_dir: Path):
    answer = advisor("fit", model_dir, *FIT, "--memory", "1MB", "--no-cards")
    assert answer.code == 3
    assert "Nothing fits into 977 KiB on rtx-4060." in answer.stdout
    assert "the smallest requirement is" in answer.stdout and "lora" in answer.stdout


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--memory", "0GiB"), "memory must be a positive number"),
        (("--memory", "8"), "memory must be a positive number with a unit"),
        (("--method", "loar"), "loar"),
        (("--device", "rtx-9999"), "rtx-9999"),
        (("--seq-length", "100000"), "positions"),
        (("--safety-level", "1.5"), "safety-level"),
        (("--micro-batch-size", "0"), "micro-batch-size"),
        (("--rank", "4096", "--method", "lora", "--device", "t4"), "rank"),
    ],
)
def test_bad_questions_are_refused(advisor: Advisor, model_dir: Path, arguments: tuple[str, ...], complaint: str):
    answer = advisor("fit", model_dir, "--task", "sequence-classification", "--device", "t4", *arguments)
    assert answer.code == 2
    assert complaint in answer.stderr


PREDICT = ("--task", "sequence-classification", "--device", "rtx-4060", "--method", "lora", "--micro-batch-size", "8")


def test_predict_explains_its_peak(advisor: Advisor, model_dir: Path, tmp_path: Path):
    page = tmp_path / "page.html"
    answer = advisor("predict", model_dir, *PREDICT, "--seq-length", "64", "--html", page, "--json")
    assert answer.code == 0
    found = answer.json
    peak = found["explanation"]["peak"]
    # Allocated is the live bytes with the workspaces, rounded up to whole blocks of the allocator.
    assert 0 < peak["live_bytes"] <= found["memory"]["allocated_bytes"]
    assert sum(share["live_bytes"] for share in peak["by_kind"]) == peak["live_bytes"]
    assert found["explanation"]["comparison"]["sentence"]
    assert peak["phase"] == found["memory"]["peak_phase"]
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_plain_prediction_is_not_explained(advisor: Advisor, model_dir: Path):
    answer = advisor("predict", model_dir, *PREDICT, "--seq-length", "64", "--json")
    assert answer.code == 0 and "explanation" not in answer.json
    text = advisor("predict", model_dir, *PREDICT, "--seq-length", "64", "--explain")
    assert text.code == 0
    assert "Peak of live tensors" in text.stdout and "Single-change alternatives" in text.stdout
