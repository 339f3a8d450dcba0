"""The keys that docs/json.md documents are those that the commands print, no more and no fewer."""

from __future__ import annotations

import dataclasses
import re
import typing
from typing import Any

import click
import pytest

from advisor.calibration.report import Forgotten
from advisor.cli.app import app
from advisor.core.budget import Budget
from advisor.core.errors import InputError
from advisor.core.plan import Plan
from advisor.core.recommendation import RankedPlan, Recommendation, RejectedMethod
from advisor.core.run import RunRecord
from advisor.core.serialization import to_dict
from advisor.reporting.fit import fit_answer
from advisor.reporting.plans import recommendation_answer
from advisor.reporting.run import run_answer
from advisor.search.fitting import FitAnswer, FitRequest
from advisor.search.study import TuneResult
from tests.core.records import cost_estimate, make_plan, measurement
from tests.docs.pages import REPOSITORY, text_of

PAGE = text_of(REPOSITORY / "docs" / "json.md")


def documented(heading: str) -> set[str]:
    """First column of the first table under a heading."""
    section = re.split(r"^#+ ", PAGE.split(f"\n### {heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    cells = re.findall(r"^\| (`[^|]*) \|", section, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([a-z_0-9]+)`", cell)}


def record_headings() -> list[str]:
    return re.findall(r"^### ([A-Z]\w+)\n\n", PAGE, re.MULTILINE)


def reached(record: type, found: dict[str, type]) -> dict[str, type]:
    """The record and all records inside it, by name."""
    if dataclasses.is_dataclass(record) and record.__name__ not in found:
        found[record.__name__] = record
        for hint in typing.get_type_hints(record).values():
            _inside(hint, found)
    return found


def _inside(hint: Any, found: dict[str, type]) -> None:
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        reached(hint, found)
    for argument in typing.get_args(hint):
        _inside(argument, found)


RECORDS = reached(RunRecord, {}) | reached(Recommendation, {})


@pytest.mark.parametrize("record", ["CostEstimate", "MemoryBreakdown", "Plan", "StrategyConfig", "RunRecord"])
def test_fields_are_documented(record: str) -> None:
    fields = dataclasses.fields(RECORDS[record])
    assert documented(record) == {field.name for field in fields if not field.metadata.get("beside")}


def always(record: str) -> set[str]:
    """Documented keys without those that are left out where they have their default."""
    later = {field.name for field in dataclasses.fields(RECORDS[record]) if field.metadata.get("later")}
    assert later <= documented(record)
    return documented(record) - later


def test_a_cost_has_exactly_the_documented_keys() -> None:
    cost = to_dict(cost_estimate())
    assert set(cost) == always("CostEstimate")
    assert set(cost["memory"]) == always("MemoryEstimate")
    assert set(cost["memory"]["breakdown"]) == always("MemoryBreakdown")
    assert set(cost["time"]) == always("TimeEstimate")
    assert set(cost["quality"]) == always("QualityEstimate")


def test_a_recommendation_has_exactly_the_documented_keys() -> None:
    ranked, rejected = RankedPlan(make_plan(), 0.8, False, "reason"), RejectedMethod("full", "reason", make_plan())
    answer = recommendation_answer(Recommendation("cpu", Budget(), (ranked,), (rejected,), 3, (), 2), None)
    row = next(line for line in PAGE.splitlines() if line.startswith("| `ranked`"))
    assert set(answer) == documented("recommend")
    assert set(answer["ranked"][0]) == set(re.findall(r"`([a-z_]+)`", row)) - {"ranked"}
    row = next(line for line in PAGE.splitlines() if line.startswith("| `rejected`"))
    nested = answer["rejected"][0]
    assert {*nested, *nested["smallest_plan"]} == set(re.findall(r"`([a-z_]+)`", row)) - {"rejected"}


def test_a_run_has_exactly_the_documented_keys() -> None:
    answer = run_answer(RunRecord(make_plan(), measurement(), (), "cpu", {}, "2026-01-01", "out"))
    row = next(line for line in PAGE.splitlines() if line.startswith("| `measured`"))
    assert set(answer) == documented("run")
    assert set(answer["measured"]) == set(re.findall(r"`([a-z_]+)`", row)) - {"measured"}


def test_an_answer_of_fit_has_exactly_the_documented_keys() -> None:
    answer = fit_answer(FitAnswer("t4", FitRequest(1, 128, 2**30, 0.95, True), (), 0, True))
    assert set(answer) == documented("fit")


def test_a_study_has_exactly_the_documented_keys() -> None:
    assert {field.name for field in dataclasses.fields(TuneResult)} == documented("TuneResult")


def later(record: Any) -> set[str]:
    """Fields that are left out of files where they have their default; they are documented nevertheless."""
    found = {field.name for field in dataclasses.fields(record) if field.metadata.get("later")}
    assert found <= documented(type(record).__name__)
    return found


def test_a_plan_has_exactly_the_documented_keys() -> None:
    values = to_dict(make_plan())
    own = {knob.name for knob in dataclasses.fields(make_plan().strategy.knobs)}
    assert set(values) == documented("Plan")
    assert set(values["strategy"]) == (documented("StrategyConfig") - later(make_plan().strategy)) | own
    assert set(values["execution"]) == documented("ExecutionPlan") - later(make_plan().execution)
    assert own <= set(re.findall(r"`([a-z_0-9]+)`", text_of(REPOSITORY / "docs" / "strategies.md")))


def test_an_error_has_exactly_the_documented_keys() -> None:
    assert set(InputError("rule", fix="fix").to_dict()) == documented("Errors")


def named_in_help(*words: str) -> set[str]:
    """Top-level keys that a command's help lists."""
    command: click.Command | None = app
    for word in words:
        assert isinstance(command, click.Group)
        command = command.get_command(click.Context(command), word)
    assert command is not None and command.help is not None
    listed = " ".join(command.help.split("JSON keys: ", 1)[1].split("\n\n")[0].split())
    while "(" in listed:
        listed = re.sub(r"\([^()]*\)", "", listed)
    return set(re.findall(r"\w+", listed.split(";")[0]))


ANSWERS = {
    ("recommend",): documented("recommend"),
    ("run",): documented("run"),
    ("fit",): documented("fit"),
    ("tune",): documented("TuneResult") | {"plan_path"},
    ("calibrate", "run"): documented("CalibrationReport"),
    ("calibrate", "import"): documented("ImportReport"),
    ("calibrate", "from-steps"): documented("DatasheetReport"),
    ("calibrate", "reset"): {field.name for field in dataclasses.fields(Forgotten)},
    ("validate",): documented("Validation"),
    ("doctor",): documented("Diagnosis"),
    ("bench", "speed"): {"suite", "comparisons"},
    ("bench", "profile"): {"profiles"},
    ("bench", "roberta-imdb"): documented("SuiteReport"),
    ("evaluate",): documented("ModelEvaluation"),
    ("compare",): documented("RunComparison"),
}


@pytest.mark.parametrize("command", ANSWERS, ids=" ".join)
def test_help_names_the_keys_of_the_answer(command: tuple[str, ...]) -> None:
    assert named_in_help(*command) == ANSWERS[command]


def test_every_key_has_a_meaning() -> None:
    assert re.findall(r"^\| `\w+` \|.*\|  \|$", PAGE, re.MULTILINE) == []


def test_an_undocumented_key_is_noticed() -> None:
    assert documented("CostEstimate") != {*to_dict(cost_estimate()), "surplus"}
    assert documented("Plan") == {field.name for field in dataclasses.fields(Plan)}
