"""``advisor calibrate`` stopped for real: by Ctrl-C and by a kill; the same command then goes on where it ended."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from advisor.calibration.database import load_calibration
from advisor.calibration.plan import NOISY
from advisor.core.coefficients import StepPoint
from advisor.core.device import DeviceProfile
from advisor.core.serialization import from_dict

LONGEST_S = 240.0


def stored_steps(database: Path) -> list[StepPoint]:
    """What is stored, fitted or not; read without the code under test."""
    if not database.is_file():
        return []
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        try:
            rows = connection.execute("SELECT record FROM point WHERE kind = 'points'").fetchall()
        except sqlite3.OperationalError:  # the tables are being made
            return []
    return [from_dict(StepPoint, json.loads(record), what="the point") for (record,) in rows]


def wait_for_steps(database: Path, process: subprocess.Popen[str]) -> None:
    """Until the first configuration is measured."""
    deadline = time.monotonic() + LONGEST_S
    while time.monotonic() < deadline and process.poll() is None:
        if stored_steps(database):
            return
        time.sleep(0.2)
    pytest.fail(f"no step was measured: exit code {process.poll()}")


@pytest.mark.slow
@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_calibration_goes_on(
    tmp_path: Path, cpu_profile: DeviceProfile, model_dir: Path, signal_number: int
) -> None:
    database = tmp_path / "home" / "calibration" / "calibrations.db"
    command = [sys.executable, "-m", "advisor", "calibrate", str(model_dir), "--quick", "--json"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ
    ) as measuring:
        wait_for_steps(database, measuring)
        measuring.send_signal(signal_number)
        answer, errors = measuring.communicate(timeout=60)
    assert "Traceback" not in errors
    kept = load_calibration("cpu-test")
    if signal_number == signal.SIGINT:
        assert measuring.returncode == 130
        assert "marked partial" in json.loads(answer)["fix"]
        assert kept is not None
        assert kept.partial == "interrupted"
        assert kept.step is not None
    else:
        assert measuring.returncode == -signal.SIGKILL
        assert kept is None

    known = {p.step_times_s for p in stored_steps(database) if p.noise_relative <= NOISY}
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["calibration"]["partial"] == ""
    times = [tuple(point["step_times_s"]) for point in found["calibration"]["points"]]
    assert known <= set(times), "what was measured well is not measured again"
    assert found["new_points"] <= len(times) - len(known)
