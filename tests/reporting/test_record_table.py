"""Finished runs as a Markdown table."""

from __future__ import annotations

from pathlib import Path

import pytest

from advisor.core.run import RunRecord
from advisor.core.serialization import to_json
from advisor.reporting.record_table import main
from advisor.reporting.verification import verify
from tests.core import records


def write_record(folder: Path) -> None:
    plan, measured = records.make_plan(predicted=records.cost_estimate()), records.measurement()
    record = RunRecord(plan, measured, verify(plan, measured), "cpu-test", {}, "2026-01-01T00:00:00+00:00", str(folder))
    folder.mkdir()
    (folder / "record.json").write_text(to_json(record), encoding="utf-8")


def test_a_row_holds_predicted_and_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_record(tmp_path / "run")
    assert main([str(tmp_path / "run")]) == 0
    heading, rule, row = capsys.readouterr().out.strip().splitlines()
    assert heading.count("|") == rule.count("|") == row.count("|")
    assert f"`{records.make_plan().strategy.method}`" in row
    assert "100 MiB / " in row


def test_a_folder_without_a_record_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) != 0
    assert "record.json" in capsys.readouterr().err
