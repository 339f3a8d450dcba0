"""``advisor validate``: bad input, and what Ctrl-C and a kill leave behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from advisor.core.device import DeviceProfile
from advisor.experiments.store import RecordStore
from advisor.experiments.validation.records import FORMAT
from advisor.hardware.backends import backend_names
from tests.cli.conftest import Advisor
from tests.cli.test_bad_input import refused
from tests.experiments.validation.records import header, timed


@pytest.mark.parametrize("shard", ["3/2", "0/2", "1", "1/0", "a/b", "1/2/3", "-1/2"])
def test_impossible_shards(advisor: Advisor, shard: str) -> None:
    refused(advisor("validate", "memory", f"--shard={shard}"), repr(shard), "1 <= i <= n")


def test_unknown_grids_kinds_and_limits(advisor: Advisor) -> None:
    refused(advisor("validate", "memory", "--grid", "medium"), "medium", "quick")
    refused(advisor("validate", "speed"), "speed", "memory")
    refused(advisor("validate"), "validate --help")
    refused(advisor("validate", "memory", "--time-limit", "8"), "'8'", "90min")


def test_devices_are_those_of_the_registry_of_back_ends(advisor: Advisor, cpu_profile: DeviceProfile) -> None:
    assert f"[auto|{'|'.join(backend_names())}]" in advisor("validate", "--help").stdout
    refused(advisor("validate", "memory", "--device", "abacus"), *backend_names(), "'abacus'")


def test_grids_and_repeats_of_step_times(advisor: Advisor, cpu_profile: DeviceProfile) -> None:
    refused(advisor("validate", "memory", "--grid", "cpu-wide"), "cpu-wide", "memory")
    refused(advisor("validate", "time", "--repeats", "1"), "1", "--repeats")
    refused(advisor("validate", "time", "--calibration", "c.json"), "--calibration", "--predict-again")
    refused(advisor("validate", "time", "--grid", "cpu-wide", "--device", "cuda"), "--device cpu")


def test_recorded_step_times_are_shown_and_judged(advisor: Advisor, tmp_path: Path) -> None:
    path = tmp_path / "time.jsonl"
    with RecordStore(path, header("time"), FORMAT) as store:
        for index in range(70):
            store.add(timed(str(index), 1.2**index, 1.5 * 1.2**index, rows=index + 1))
    shown = advisor("validate", "time", "--records", path)
    assert shown.code == 0
    assert "fail  step time p50: 50.0 % (at most 8.00 %)" in shown.stdout
    answer = advisor("validate", "time", "--records", path, "--records", path, "--json", "--strict")
    assert answer.code == 1
    assert answer.json["times"]["errors"][0]["p50"] == pytest.approx(0.5)
    assert answer.json["times"]["pairs_in_order"] == answer.json["times"]["pairs"] > 0
    assert len(answer.json["records"]) == 70
    assert answer.json["comparison"] is None


def test_records_that_are_missing_or_not_named(advisor: Advisor, tmp_path: Path) -> None:
    refused(advisor("validate", "memory", "--records", tmp_path / "none.jsonl"), "none.jsonl")
    refused(advisor("validate", "memory", "--predict-again"), "--records")


def test_an_output_that_is_a_file(advisor: Advisor, tmp_path: Path, cpu_profile: DeviceProfile) -> None:
    (tmp_path / "file").write_text("in the way")
    refused(advisor("validate", "memory", "--grid", "cpu", "--output", tmp_path / "file"), "file")


def test_a_gpu_grid_without_a_gpu(advisor: Advisor, tmp_path: Path, cpu_profile: DeviceProfile) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    refused(advisor("validate", "memory", "--grid", "cuda", "--output", tmp_path / "out"), "CUDA device", "--grid cpu")


def _start(output: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "advisor", "validate", "memory", "--grid", "quick", "--device", "cpu"]
    return subprocess.Popen(
        [*command, "--shard", "1/2", "--json", "--output", str(output)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def _records(output: Path) -> list[str]:
    files = list(output.glob("*.jsonl"))
    return files[0].read_text().splitlines()[1:] if files else []


def _wait_for_records(output: Path, count: int, process: subprocess.Popen[str]) -> None:
    deadline_s = time.monotonic() + 300
    while len(_records(output)) < count:
        assert process.poll() is None, "it ended before it had measured anything"
        assert time.monotonic() < deadline_s
        time.sleep(0.2)


@pytest.mark.slow
def test_killed_and_interrupted_it_goes_on_without_repeating(tmp_path: Path, cpu_profile: DeviceProfile) -> None:
    output = tmp_path / "out"
    with _start(output) as killed:
        _wait_for_records(output, 1, killed)
        killed.send_signal(signal.SIGKILL)
        killed.wait(timeout=30)
    after_kill = _records(output)

    with _start(output) as interrupted:
        _wait_for_records(output, len(after_kill) + 1, interrupted)
        interrupted.send_signal(signal.SIGINT)
        answer, _ = interrupted.communicate(timeout=120)
    assert interrupted.returncode == 130
    partial = json.loads(answer)
    assert partial["stopped"] == "interrupted"
    assert 0 < partial["remaining"] < 5
    assert len(partial["records"]) == 5 - partial["remaining"]

    with _start(output) as last:
        answer, _ = last.communicate(timeout=300)
    assert last.returncode == 0
    whole = json.loads(answer)
    assert (whole["remaining"], whole["stopped"]) == (0, "")
    lines = _records(output)
    assert lines[: len(after_kill)] == after_kill
    assert len({json.loads(line)["key"] for line in lines}) == len(lines) == len(whole["records"])
