"""``advisor calibrate`` stopped for real: by Ctrl-C and by a kill; the same command then goes on where it ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from advisor.calibration import load_calibration
from advisor.calibration.journal import parse_calibration_journal
from advisor.calibration.plan import NOISY
from advisor.core.device import DeviceProfile

LONGEST_S = 240.0


def wait_for_steps(journal: Path, process: subprocess.Popen[str]) -> None:
    """Until the first configuration is measured."""
    deadline = time.monotonic() + LONGEST_S
    while time.monotonic() < deadline and process.poll() is None:
        if journal.is_file() and '{"steps"' in journal.read_text():
            return
        time.sleep(0.2)
    pytest.fail(f"no step was measured: exit code {process.poll()}")


def believed_times(folder: Path) -> set[tuple[float, ...]]:
    """Raw step times that were kept and are quiet enough to be used again."""
    if (folder / "cpu-test.json").is_file():
        found = load_calibration("cpu-test")
        points = found.points if found is not None else ()
    else:
        points = parse_calibration_journal((folder / "cpu-test.jsonl").read_text())[1].points
    return {p.step_times_s for p in points if p.noise_relative <= NOISY}


@pytest.mark.slow
@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_calibration_goes_on(
    tmp_path: Path, cpu_profile: DeviceProfile, model_dir: Path, signal_number: int
) -> None:
    folder = tmp_path / "home" / "calibration"
    command = [sys.executable, "-m", "advisor", "calibrate", str(model_dir), "--quick", "--json"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ
    ) as measuring:
        wait_for_steps(folder / "cpu-test.jsonl", measuring)
        measuring.send_signal(signal_number)
        answer, errors = measuring.communicate(timeout=60)
    assert "Traceback" not in errors
    if signal_number == signal.SIGINT:
        assert measuring.returncode == 130
        assert "marked partial" in json.loads(answer)["fix"]
        kept = json.loads((folder / "cpu-test.json").read_text())
        assert kept["partial"] == "interrupted"
        assert kept["step"] is not None
    else:
        assert measuring.returncode == -signal.SIGKILL
        assert not (folder / "cpu-test.json").exists()

    known = believed_times(folder)
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["calibration"]["partial"] == ""
    times = [tuple(point["step_times_s"]) for point in found["calibration"]["points"]]
    assert known <= set(times), "what was measured well is not measured again"
    assert found["new_points"] <= len(times) - len(known)
    assert not (folder / "cpu-test.jsonl").exists()
