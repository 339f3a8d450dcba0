"""Records to JSON and back: nothing is lost, and every wrong field is named."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.core.budget import Budget
from advisor.core.cost import Interval
from advisor.core.errors import InputError, PlanError
from advisor.core.plan import ExecutionPlan, Plan
from advisor.core.run import Measurement
from advisor.core.serialization import from_dict, read_json, to_dict, to_json
from advisor.core.strategy import Knobs, StrategyConfig
from advisor.strategies.own_weights import PartialKnobs
from advisor.strategies.peft import PeftKnobs
from advisor.strategies.sparse_lora import SparseLoraKnobs
from tests.core.records import make_plan, measurement


def test_a_plan_survives_the_round_trip() -> None:
    plan = make_plan()
    assert from_dict(Plan, json.loads(to_json(plan)), what="plan") == plan


def test_a_measurement_survives_the_round_trip() -> None:
    measured = measurement(metric_history=((10, {"accuracy": 0.7}),), train_losses=((5, 0.69),))
    assert from_dict(Measurement, json.loads(to_json(measured)), what="measurement") == measured


TARGETS = st.text() | st.lists(st.text(), min_size=1).map(tuple)
KNOBS = {
    "full": st.just(Knobs()),
    "partial": st.builds(PartialKnobs, st.integers(1, 100)),
    "sparse_lora": st.builds(SparseLoraKnobs, TARGETS, st.integers(1, 4096), sparsity=st.floats(0, 0.99)),
    "peft": st.builds(
        PeftKnobs, st.none() | TARGETS, st.dictionaries(st.text(), st.none() | st.integers() | st.text())
    ),
}


@given(
    st.sampled_from(sorted(KNOBS)).flatmap(
        lambda method: st.builds(StrategyConfig, st.just(method), st.floats(1e-9, 10), knobs=KNOBS[method])
    )
)
def test_any_strategy_survives_the_round_trip(config: StrategyConfig) -> None:
    assert from_dict(StrategyConfig, json.loads(to_json(config)), what="strategy") == config


def test_numbers_that_json_cannot_hold_become_null() -> None:
    assert to_dict({"loss": math.nan, "worst": (math.inf, 1.0)}) == {"loss": None, "worst": [None, 1.0]}


def test_all_problems_are_reported_together() -> None:
    values = to_dict(make_plan())
    values["strategy"]["learning_rate"] = "fast"
    values["strategy"]["ranks"] = 8
    values["execution"]["amp"] = "fp8"
    values["budjet"] = {}
    del values["device"]
    del values["data"]["kind"]
    with pytest.raises(PlanError) as refused:
        from_dict(Plan, values, what="plan.json", error=PlanError)
    problems = {problem.split(":")[0] for problem in refused.value.problems}
    assert problems == {
        "strategy.learning_rate",
        "strategy.ranks",
        "execution.amp",
        "budjet",
        "device",
        "data.kind",
    }
    assert "plan.json" in refused.value.message


def test_unknown_fields_deep_inside_are_refused() -> None:
    values = to_dict(make_plan())
    values["predicted"]["memory"]["intervals"]["device_bytes"]["middle"] = 1
    with pytest.raises(InputError) as refused:
        from_dict(Plan, values, what="plan")
    assert refused.value.problems == ("predicted.memory.intervals.device_bytes.middle: unknown field, 1",)


def test_a_rule_of_the_record_itself_is_named() -> None:
    values = {"micro_batch_size": 0, "gradient_accumulation_steps": -1}
    with pytest.raises(InputError) as refused:
        from_dict(ExecutionPlan, values, what="execution")
    (problem,) = refused.value.problems
    assert "micro_batch_size >= 1 must hold, but got 0" in problem
    assert "gradient_accumulation_steps >= 1 must hold, but got -1" in problem


@pytest.mark.parametrize(
    ("cls", "values"),
    [(Budget, {"memory_bytes": 0}), (Budget, {"safety_level": 1.0}), (Interval, {"low": 2.0, "high": 1.0})],
)
def test_rules_hold_when_reading(cls: type, values: dict[str, object]) -> None:
    with pytest.raises(InputError, match="must hold"):
        from_dict(cls, values, what="record")


@pytest.mark.parametrize("values", [[], 3, "text", None])
def test_something_else_than_an_object_is_refused(values: object) -> None:
    with pytest.raises(InputError):
        from_dict(Budget, values, what="budget")


def test_read_json_names_what_is_wrong_with_the_file(tmp_path) -> None:
    with pytest.raises(InputError, match="there is no file"):
        read_json(tmp_path / "none.json", what="the plan")
    broken = tmp_path / "broken.json"
    broken.write_text('{"a": 1,\n "b": ')
    with pytest.raises(InputError, match="line 2"):
        read_json(broken, what="the plan")
    binary = tmp_path / "binary.json"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="readable text"):
        read_json(binary, what="the plan")
    with pytest.raises(InputError, match="is a folder"):
        read_json(tmp_path, what="the plan")
