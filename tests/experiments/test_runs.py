"""Finished runs against their plans: errors, thresholds, and the Markdown tables of ``advisor validate runs``."""

from __future__ import annotations

from pathlib import Path

import pytest

from advisor.core.errors import InputError
from advisor.core.run import RunRecord
from advisor.core.serialization import to_json
from advisor.experiments.error_statistics import ErrorRow
from advisor.experiments.runs import TOTAL, RunsComparison, compare_runs
from advisor.pipeline.validating import validate_runs
from advisor.reporting.validation import runs_tables
from advisor.reporting.verification import verify
from tests.cli.conftest import Advisor, advisor
from tests.core import records

__all__ = ["advisor"]


def run_of(total_s: float, name: str = "run", *, resumed: bool = False) -> RunRecord:
    plan = records.make_plan(predicted=records.cost_estimate())
    measured = records.measurement(total_s=total_s, parts_s={"loading": 2.5, "training": total_s - 2.5})
    found = verify(plan, measured, resumed=resumed)
    return RunRecord(plan, measured, found, "cpu-test", {}, "2026-01-01T00:00:00+00:00", f"runs/{name}")


def saved(folder: Path, total_s: float) -> Path:
    folder.mkdir()
    (folder / "record.json").write_text(to_json(run_of(total_s, folder.name)), encoding="utf-8")
    return folder


def total_of(comparison: RunsComparison) -> ErrorRow | None:
    return next((row for row in comparison.errors if row.quantity == TOTAL), None)


def passed(*totals: float) -> list[bool | None]:
    return [bound.passed for bound in compare_runs([run_of(total) for total in totals]).thresholds]


def test_median_and_worst_run_have_a_threshold() -> None:
    assert passed(60.0, 62.0, 68.0) == [True, True]
    assert passed(60.0, 62.0, 72.0) == [True, False], "one run is 17 % off"
    assert passed(60.0, 66.0, 66.0) == [False, True], "the median is 9 % off"
    assert passed() == [None, None]
    errors = total_of(compare_runs([run_of(total) for total in (60.0, 62.0, 72.0)]))
    assert errors is not None
    assert (errors.count, errors.p50, errors.max) == (3, pytest.approx(2 / 62), pytest.approx(12 / 72))


def test_resumed_runs_have_no_time_to_compare() -> None:
    both = total_of(compare_runs([run_of(300.0, resumed=True), run_of(60.0)]))
    assert both is not None
    assert (both.count, both.max) == (1, 0.0)
    assert total_of(compare_runs([run_of(300.0, resumed=True)])) is None


def test_a_row_holds_predicted_and_measured_and_every_phase() -> None:
    text = runs_tables(compare_runs([run_of(61.0, "first"), run_of(64.0, "second")]))
    lines = text.splitlines()
    heading, rule, row = lines[:3]
    assert heading.count("|") == rule.count("|") == row.count("|")
    assert row.startswith("| first | `lora` | 900 x 3 |")
    assert "100 MiB / " in row
    assert "1 min 00 s / 1 min 01 s | -1.6 % |" in row
    assert "| second | 2.00 / 2.50 | 53.00 / 61.50 |" in lines
    assert "pass  whole-run time p50: 3.94 % (at most 8.00 %)" in text


def test_folders_without_a_record_are_named(tmp_path: Path) -> None:
    found = validate_runs([saved(tmp_path / "good", 61.0), tmp_path / "none"])
    assert [Path(record.output_dir).name for record in found.records] == ["good"]
    assert "record.json" in found.unreadable[0]
    with pytest.raises(InputError, match="finished runs") as refused:
        validate_runs([tmp_path / "none"])
    assert "record.json" in refused.value.problems[0]


def test_the_command_prints_the_tables_and_judges_them_if_strict(advisor: Advisor, tmp_path: Path) -> None:
    good, bad = saved(tmp_path / "good", 61.0), saved(tmp_path / "bad", 90.0)
    shown = advisor("validate", "runs", good, "--strict")
    assert shown.code == 0
    assert "| good |" in shown.stdout
    assert advisor("validate", "runs", good, bad).code == 0
    missed = advisor("validate", "runs", good, bad, "--strict")
    assert missed.code == 1
    assert "fail  whole-run time max: 33.3 % (at most 15.0 %)" in missed.stdout
    left_out = advisor("validate", "runs", good, tmp_path / "none", "--strict")
    assert left_out.code == 1
    assert "left out: " in left_out.stderr
    answer = advisor("validate", "runs", good, bad, "--json").json
    assert {row["quantity"]: row["count"] for row in answer["errors"]}[TOTAL] == 2
    assert len(answer["records"]) == 2
    assert advisor("validate", "runs", tmp_path / "none").code == 2
    assert advisor("validate", "runs").code == 2
    assert advisor("validate", "memory", good).code == 2
