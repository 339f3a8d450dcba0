"""Commands in an environment that lets them down: Ctrl-C anywhere, a full disk, a home that cannot be written or that
two of them share.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.situations.test_models_as_people_have_them import BERT, config

ADVISOR = [sys.executable, "-m", "advisor"]


@pytest.fixture
def rows(tmp_path: Path) -> str:
    path = tmp_path / "tides.csv"
    path.write_text("text,label\n" + "".join(f"low tide {i},low\nhigh tide {i},high\n" for i in range(20)))
    return str(path)


def predict(tmp_path: Path) -> list[str]:
    task = ["--task", "sequence-classification", "--method", "lora", "--device", "t4", "--json"]
    return [*ADVISOR, "predict", config(tmp_path, BERT), *task, "--seq-length", "64"]


def start(command: list[str], home: Path | str, **options: Any) -> subprocess.Popen[str]:
    environment = os.environ | {"ADVISOR_HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}  # half of one on a full disk
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, text=True, env=environment, **pipes, **options)


def largest_file(limit_bytes: int) -> None:
    """As on a full disk: what is longer cannot be written."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))


def answer(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0 and "Traceback" not in err, err
    found: dict[str, Any] = json.loads(out)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", ["probe", "recommend", "calibrate", "evidence", "bench"])
def test_ctrl_c_ends_a_command_in_one_sentence(name: str, tmp_path: Path, rows: str) -> None:
    """Sent to the whole group, as a terminal does; the children's output stays quiet, too."""
    model = config(tmp_path, BERT)
    commands = {
        "probe": ["probe", "--quick"],
        "recommend": ["recommend", model, "--data", rows, "--output", str(tmp_path / "plan.json")],
        "evidence": ["recommend", model, "--data", rows, "--evidence", "2min", "--output", str(tmp_path / "plan.json")],
        "calibrate": ["calibrate", "run", model, "--quick"],
        "bench": ["bench", "peft-methods", model, "--data", rows, "--methods", "lora", "--output", str(tmp_path / "b")],
    }
    process = start([*ADVISOR, *commands[name]], tmp_path / "home", start_new_session=True)
    assert process.stderr is not None
    first = process.stderr.readline()
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, first + err
    assert "Traceback" not in out + err and "interrupted" in err
    assert not (tmp_path / "plan.json").exists()


@pytest.mark.slow
def test_a_full_disk_costs_only_what_would_be_kept(tmp_path: Path) -> None:
    command = predict(tmp_path)
    expected = answer(start(command, tmp_path / "home"))

    full = answer(start(command, tmp_path / "full", preexec_fn=lambda: largest_file(64)))
    assert expected["memory"] == full["memory"]


def test_a_home_that_cannot_be_made_names_what_sets_it(tmp_path: Path) -> None:
    """A file in its way refuses root, too."""
    (tmp_path / "file").touch()
    process = start(predict(tmp_path), tmp_path / "file" / "home")
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 2 and "set ADVISOR_HOME to" in json.loads(out)["fix"]


@pytest.mark.slow
def test_no_room_even_for_temporary_files_is_said(tmp_path: Path) -> None:
    process = start(predict(tmp_path), tmp_path / "home", preexec_fn=lambda: largest_file(0))
    out, err = process.communicate(timeout=120)
    assert process.returncode == 2 and "Traceback" not in err
    assert "TMPDIR" in json.loads(out)["fix"]


@pytest.mark.slow
def test_two_commands_at_once_share_a_home(tmp_path: Path) -> None:
    command = predict(tmp_path)
    both = [start(command, tmp_path / "home") for _ in range(2)]
    first, second = (answer(process) for process in both)
    assert first["memory"] == second["memory"]
    assert answer(start(command, tmp_path / "home"))["memory"] == first["memory"]
    assert not list((tmp_path / "home").rglob("*.partial"))
