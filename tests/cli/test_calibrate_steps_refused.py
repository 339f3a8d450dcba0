"""Measured steps that ``advisor calibrate from-steps`` cannot use: one screen, exit code 2, and nothing is stored."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from advisor.hardware.profiles import fitted_path
from tests.cli.conftest import Advisor
from tests.cli.measured_steps import CARD, entry, fit, run_folder, written
from tests.cli.test_bad_input import refused


def test_runs_that_say_nothing_of_the_card(advisor: Advisor, model_dir: Path, tmp_path: Path) -> None:
    elsewhere = run_folder(tmp_path / "elsewhere", model_dir, "t4", torch_compile=True)
    refused(fit(advisor, elsewhere), "must have run on l4, but it ran on t4", "compiled")
    short = run_folder(tmp_path / "short", model_dir)
    record = json.loads((short / "record.json").read_text())
    record["measurement"]["step_times_s"] = [1.0, 0.5]
    (short / "record.json").write_text(json.dumps(record))
    refused(fit(advisor, short), "3 steps after the first, but it has 1")
    refused(fit(advisor, tmp_path), "record.json")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[{", ["must be JSON", "line 1", '"step_s"']),
        ("[]", ["an empty one", '"step_s"']),
        ('{"model": "m"}', ["an object"]),
        ("[3]", ["step 1"]),
        ('[{"model": "m"}]', ["step 1: method", "step 1: micro_batch_size", "step 1: seq_length", "step 1: step_s"]),
    ],
)
def test_lists_that_are_none(advisor: Advisor, tmp_path: Path, text: str, words: list[str]) -> None:
    path = tmp_path / "steps.json"
    path.write_text(text)
    refused(fit(advisor, path), str(path), *words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"step_s": 0}, ["step 2", "step_s > 0 must hold", "0"]),
        ({"step_s": -3.5}, ["step_s > 0 must hold", "-3.5"]),
        ({"step_s": float("nan")}, ["step_s > 0 must hold", "nan"]),
        ({"step_s": "fast"}, ["step 2: step_s", "'fast'"]),
        ({"seq_length": 0}, ["seq_length >= 1"]),
        ({"seq_length": 65}, ["step 2", "64 positions"]),
        ({"micro_batch_size": 0}, ["step 2: micro_batch_size >= 1", '"step_s"']),
        ({"gradient_accumulation_steps": -1}, ["step 2: gradient_accumulation_steps >= 1"]),
        ({"learning_speed": 3}, ["step 2: learning_speed: unknown field"]),
        ({"torch_compile": True}, ["step 2: torch_compile: unknown field"]),
        ({"dtype": "int8"}, ["step 2: dtype", "int8"]),
        ({"method": "lorra"}, ["step 2", "lorra", "lora"]),
        ({"rank": 64}, ["step 2", "rank", "64"]),
        ({"model": "./nowhere"}, ["step 2", "nowhere"]),
        ({"optim": "lorafa", "method": "full"}, ["step 2", "LoRA adapters"]),
    ],
    ids=str,
)
def test_entries_that_cannot_be(
    advisor: Advisor, model_dir: Path, tmp_path: Path, changes: dict[str, object], words: list[str]
) -> None:
    path = written(tmp_path, [entry(model_dir), {**entry(model_dir), **changes}])
    refused(fit(advisor, path), *words)
    assert not fitted_path(CARD).exists()


def test_many_problems_fit_on_a_screen(advisor: Advisor, model_dir: Path, tmp_path: Path) -> None:
    refused(fit(advisor, written(tmp_path, [entry(model_dir, step_s=0)] * 30)), "step 10: ", "and 20 more")


def test_devices_that_cannot_be_fitted(
    advisor: Advisor, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, [entry(model_dir)])
    refused(fit(advisor, path, device="l41"), "l41", "l4")
    refused(fit(advisor, path, device="cpu-xeon-6-207-2c"), "correct a datasheet", "is measured")
    refused(fit(advisor, tmp_path / "none.json"), "none.json")
    monkeypatch.setenv("ADVISOR_HOME", str(tmp_path / "home"))
    from advisor.hardware import load_profile, save_profile

    save_profile(dataclasses.replace(load_profile(CARD), basis="measured"))
    refused(fit(advisor, path), "the profile of l4 is measured", "import its calibration")
