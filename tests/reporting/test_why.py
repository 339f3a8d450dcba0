"""Where each number of a plan comes from, for every plan that was ever written."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from advisor.core.budget import Budget
from advisor.core.cost import Interval
from advisor.core.plan import load_plan
from advisor.core.serialization import to_json
from advisor.reporting.why import number_origins, print_plan, show_answer
from tests.core.records import cost_estimate, make_plan

GOLDEN = Path(__file__).parents[1] / "core" / "golden" / "plan-v1.json"


def text_of(plan, *, why: bool = True) -> str:
    page = io.StringIO()
    print_plan(Console(file=page, width=160), plan, title="plan.json", why=why)
    return page.getvalue()


@pytest.mark.parametrize("plan", [load_plan(GOLDEN), make_plan()], ids=["first version", "today"])
def test_every_predicted_number_has_an_origin(plan) -> None:
    found = {item.figure: item for item in number_origins(plan)}
    assert {item.section for item in found.values()} == {"memory", "time", "model", "quality", "budget"}
    assert all(item.origin and item.shown for item in found.values())
    cost = plan.predicted
    assert found["device peak"].value == cost.memory.device_bytes and found["device peak"].low is not None
    parts = [item.value for figure, item in found.items() if figure.startswith("device peak: ")]
    assert sum(parts) == cost.memory.breakdown.total_bytes
    parts = [item.value for figure, item in found.items() if figure.startswith("whole run: ")]
    assert sum(parts) == pytest.approx(sum(cost.time.parts.values()))
    assert found["memory, at most"].origin.startswith("kept: --memory 1.00 GiB")
    text = text_of(plan)
    for shown in (item.shown for item in found.values()):
        assert shown in text


def test_limits_that_are_broken_or_unknown_are_said() -> None:
    cost = cost_estimate(saved_bytes=900, saved_interval=Interval(900, 1000))
    budget = Budget(memory_bytes=2**20, max_saved_size_bytes=950, max_energy_j=10.0)
    found = {item.figure: item.origin for item in number_origins(make_plan(budget=budget, predicted=cost))}
    assert found["memory, at most"].startswith("exceeded") and found["saved size, at most"].startswith("exceeded")
    assert found["energy, at most"].startswith("unknown")


def test_parts_of_a_quality_and_an_unknown_one() -> None:
    quality = cost_estimate().quality
    assert quality is not None
    parts = replace(quality, parts={"most frequent class": 0.5, "skill": 0.3}, p_at_least=0.9)
    found = {item.figure: item for item in number_origins(make_plan(predicted=cost_estimate(quality=parts)))}
    assert found["accuracy: skill"].value == 0.3 and found["probability of the minimum"].shown == "90%"
    unknown = replace(quality, value=None, interval=None, reason="not known before a look at the task")
    found = {item.figure: item for item in number_origins(make_plan(predicted=cost_estimate(quality=unknown)))}
    assert (found["accuracy"].value, found["accuracy"].shown) == (None, "unknown")
    assert found["accuracy"].origin == "not known before a look at the task"


def test_a_plan_without_predictions_says_how_to_get_them() -> None:
    plan = make_plan(predicted=None)
    assert number_origins(plan) == ()
    assert "advisor predict --plan plan.json" in text_of(plan)
    assert show_answer(plan, why=True)["why"] == []


def test_the_answer_is_the_plan_and_the_origins() -> None:
    answer = json.loads(to_json(show_answer(make_plan(), why=True)))
    assert set(answer) == {"plan", "why"} and answer["plan"]["strategy"]["method"] == "lora"
    keys = {"section", "figure", "value", "low", "high", "evidence", "origin", "shown", "shown_interval"}
    assert all(set(item) == keys for item in answer["why"])
    assert set(show_answer(make_plan(), why=False)) == {"plan"}
    assert "Predicted" in text_of(make_plan(), why=False)
