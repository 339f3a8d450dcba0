"""The command looks at the machine that runs the tests: all checks, exit code by state, within its time."""

from pathlib import Path

import pytest
from rich.console import Console

from advisor.core.store import USER_DATA_VARIABLE
from advisor.hardware.backends.contact import Check
from advisor.reporting.doctor import print_checks
from tests.cli.conftest import Advisor


def test_doctor_answers_with_states_and_an_exit_code(
    advisor: Advisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(USER_DATA_VARIABLE, str(tmp_path))
    answer = advisor("doctor", "--json", "--output", tmp_path / "runs")
    states = {check["name"]: check["state"] for check in answer.json["checks"]}
    assert {"torch", "data types", "bitsandbytes", "RAM", "load", "output folder", "probe", "hub"} <= states.keys()
    assert (states["probe"], states["calibration"]) == ("note", "note")
    assert set(states.values()) <= {"ok", "note", "problem"}
    assert answer.json["works"] == ("problem" not in states.values())
    assert answer.code == (0 if answer.json["works"] else 1)
    assert answer.json["wall_s"] < 15, "ten seconds, and what a busy test machine adds"
    assert not (tmp_path / "runs").exists()


def test_the_table_says_what_to_do() -> None:
    console = Console(width=100, record=True)
    checks = [Check("RAM", "ok", "60 GiB free"), Check("hub", "problem", "[Errno 2] gone", "`advisor probe`")]
    print_checks(console, checks, 1.25)
    lines = console.export_text().splitlines()
    assert any("problem" in line and "[Errno 2] gone" in line for line in lines)
    assert any("-> `advisor probe`" in line for line in lines)
    assert lines[-1] == "1 problem to solve first; 0 notes, 2 checks in 1.2 s"
