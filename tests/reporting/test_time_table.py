"""Whole-run times of finished runs, held to the bars."""

from __future__ import annotations

from pathlib import Path

import pytest

from advisor.core.run import RunRecord
from advisor.core.serialization import to_json
from advisor.reporting.time_table import PhaseErrors, errors_of, keeps_the_bars, main, time_table, total_error, verdict
from advisor.reporting.verification import verify
from tests.core import records


def run_of(total_s: float, name: str = "run", **options: bool) -> RunRecord:
    plan = records.make_plan(predicted=records.cost_estimate())
    measured = records.measurement(total_s=total_s, parts_s={"loading": 2.5, "training": total_s - 2.5})
    found = verify(plan, measured, **options)
    return RunRecord(plan, measured, found, "cpu-test", {}, "2026-01-01T00:00:00+00:00", f"runs/{name}")


def test_every_part_stands_beside_its_prediction() -> None:
    table = time_table([run_of(61.0, "first"), run_of(64.0, "second")])
    assert "| first | `lora` | 900 x 3 |" in table
    assert "60.0 / 61.0 s" in table and "-1.6 %" in table
    assert "| second | 2.00 / 2.50 | 53.00 / 61.50 |" in table
    assert "2 runs: median error" in table


def test_the_median_and_every_run_are_held_to_a_bar() -> None:
    assert keeps_the_bars([run_of(total) for total in (60.0, 62.0, 68.0)])
    assert not keeps_the_bars([run_of(total) for total in (60.0, 62.0, 72.0)]), "one run is 17 % off"
    assert not keeps_the_bars([run_of(total) for total in (60.0, 66.0, 66.0)]), "the median is 9 % off"
    assert not keeps_the_bars([])
    found = errors_of([run_of(total) for total in (60.0, 62.0, 72.0)])
    assert found == PhaseErrors(3, pytest.approx(2 / 62), pytest.approx(12 / 72))
    assert errors_of([]) is None


def test_resumed_runs_are_no_evidence() -> None:
    assert total_error(run_of(300.0, resumed=True)) is None
    assert verdict([run_of(300.0, resumed=True), run_of(60.0)]).startswith("1 runs: median error 0.0 %")


def test_the_command_prints_it_and_says_whether_it_is_good(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, total_s in (("good", 61.0), ("bad", 90.0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "record.json").write_text(to_json(run_of(total_s, name)), encoding="utf-8")
    assert main([str(tmp_path / "good")]) == 0
    assert "pass" in capsys.readouterr().out
    assert main([str(tmp_path / "good"), str(tmp_path / "bad")]) == 1
    assert "fail" in capsys.readouterr().out
    assert main([str(tmp_path / "none")]) != 0
    assert "record.json" in capsys.readouterr().err
