"""What ``tune`` does before the first trial keeps the budget, too."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import pytest

from advisor.core.budget import Budget
from advisor.core.data import DataSpec
from advisor.core.errors import DeviceError
from advisor.core.linear_probe import LinearProbeReport
from advisor.pipeline import tuning
from advisor.pipeline.inputs import Inputs
from tests.pipeline.test_task_probing import report
from tests.search.planner_fakes import cpu, data_profile, distilbert


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


@pytest.mark.parametrize(("budget_s", "probes"), [(299.0, False), (600.0, True)])
def test_a_longer_search_probes_rows_that_the_final_run_is_not_judged_on(
    budget_s: float, probes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, Budget]] = []

    def probe(inputs: Any, budget: Budget, device: Any, on_event: Any) -> LinearProbeReport:
        asked.append((inputs, budget))
        return report(0.7)

    monkeypatch.setattr(tuning, "probe_first", probe)
    model = dataclasses.replace(distilbert(), has_weights=True)
    inputs = Inputs(model, DataSpec("rows.csv", "csv"), data_profile())
    told: list[Any] = []
    found = tuning._quality(inputs, Budget(), cpu(), tuning._Deadline(told.append, time.monotonic() + 60), budget_s)
    assert (found is not None) is probes is bool(asked)
    if probes:
        [(searched, budget)] = asked
        assert searched.data.inner_holdout and not inputs.data.inner_holdout
        assert budget.time_s == budget_s and "0.700 at 800" in told[0]["text"]


class Meter:
    """A meter that always says the same."""

    source, every_s, joules = "a fake meter", 60.0, 5.0

    def read(self) -> None:
        pass


def test_energy_is_budgeted_only_where_a_meter_counts_it() -> None:
    tuning.check_meter("metered", Meter)

    def none() -> Meter:
        raise DeviceError("there is no counter")

    with pytest.raises(DeviceError, match="--energy-budget needs a device that reports its energy") as refused:
        tuning.check_meter("cpu-test", none)
    assert "cpu-test" in refused.value.message and "there is no counter" in refused.value.message
    assert "--trials" in str(refused.value.fix)
