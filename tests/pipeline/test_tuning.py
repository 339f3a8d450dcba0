"""What ``tune`` does before the first trial keeps the budget, too."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from advisor.pipeline import tuning


def test_no_probe_is_begun_without_the_time_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADVISOR_HOME", str(tmp_path))
    with pytest.raises(tuning._OutOfTime):
        tuning._machine(tuning._Deadline(None, time.monotonic() + 5))


def test_work_that_tells_what_it_does_ends_with_the_budget() -> None:
    told: list[Any] = []
    tuning._Deadline(told.append, time.monotonic() + 60)({"kind": "note", "text": "in time"})
    with pytest.raises(tuning._OutOfTime):
        tuning._Deadline(told.append, time.monotonic() - 1)({"kind": "note", "text": "too late"})
    assert [event["text"] for event in told] == ["in time"]
