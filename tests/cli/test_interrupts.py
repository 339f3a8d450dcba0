"""Ctrl-C on a real command: exit code 130, what to type next, and a run that goes on from its checkpoint."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from advisor.core.device import DeviceProfile
from tests.training.training_runs import lora_strategy, tiny_plan


@pytest.mark.slow
def test_an_interrupted_run_goes_on(tmp_path: Path, cpu_profile: DeviceProfile) -> None:
    strategy = dataclasses.replace(lora_strategy(), num_train_epochs=15.0)
    plan = tiny_plan(tmp_path, strategy=strategy, rows=200)
    plan.save(tmp_path / "plan.json")
    command = [sys.executable, "-m", "advisor", "run", str(tmp_path / "plan.json"), "--output", str(tmp_path / "out")]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ
    ) as running:
        assert running.stderr is not None
        for line in running.stderr:
            if "step" in line:
                break
        running.send_signal(signal.SIGINT)
        rest = running.stderr.read()
        assert running.wait(timeout=60) == 130
    assert "Traceback" not in rest
    assert "--resume" in rest

    resumed = subprocess.run([*command, "--resume", "--json"], capture_output=True, text=True, env=os.environ)
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads(resumed.stdout)["outcome"] == "completed"
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert record["resumed_from_step"] > 0
    assert len(record["measurement"]["step_times_s"]) == 15 * 40
