"""plan.json: written whole, read back equal, and refused with all its problems when it is not one."""

import dataclasses
import json
from pathlib import Path

import pytest

from advisor.core.errors import PlanError
from advisor.core.plan import SCHEMA_VERSION, ExecutionPlan, load_plan
from tests.core.records import make_plan

GOLDEN = Path(__file__).parent / "golden"


def written(tmp_path: Path, **changes: object) -> Path:
    path = tmp_path / "plan.json"
    make_plan().save(path)
    values = json.loads(path.read_text())
    values.update(changes)
    path.write_text(json.dumps(values))
    return path


def test_a_saved_plan_is_read_back_equal(tmp_path: Path) -> None:
    make_plan().save(tmp_path / "deep" / "plan.json")
    assert load_plan(tmp_path / "deep" / "plan.json") == make_plan()


def test_a_plan_of_version_1_is_read() -> None:
    """It lists the knobs of all methods, with null for those that were not set or that the method does not have."""
    assert load_plan(GOLDEN / "plan-v1.json") == make_plan()


def test_the_effective_batch_is_the_product() -> None:
    assert make_plan().execution.effective_batch_size == 32


def test_evaluation_takes_the_micro_batch_unless_a_batch_of_its_own_is_named() -> None:
    plain = ExecutionPlan(4)
    assert plain.evaluation_batch_size == 4
    assert dataclasses.replace(plain, micro_batch_size=16).evaluation_batch_size == 16
    assert ExecutionPlan(4, eval_batch_size=64).evaluation_batch_size == 64
    with pytest.raises(ValueError, match="eval_batch_size >= 1 must hold, but got 0"):
        ExecutionPlan(4, eval_batch_size=0)


@pytest.mark.parametrize(("stored", "rows"), [({}, 8), ({"eval_batch_size": None}, 8), ({"eval_batch_size": 32}, 32)])
def test_the_evaluation_batch_of_a_stored_plan(tmp_path: Path, stored: dict[str, object], rows: int) -> None:
    plan = load_plan(written(tmp_path, execution={"micro_batch_size": 8, **stored}))
    assert plan.execution.evaluation_batch_size == rows


def test_a_newer_plan_is_refused_whatever_else_it_holds(tmp_path: Path) -> None:
    path = written(tmp_path, schema_version=SCHEMA_VERSION + 1, from_the_future=True)
    with pytest.raises(PlanError) as refused:
        load_plan(path)
    assert str(SCHEMA_VERSION + 1) in refused.value.message
    assert "upgrade" in str(refused.value.fix)


def test_several_problems_are_reported_at_once(tmp_path: Path) -> None:
    path = written(tmp_path, seed="lucky", extra=1, execution={"micro_batch_size": "many"})
    with pytest.raises(PlanError) as refused:
        load_plan(path)
    assert len(refused.value.problems) == 3


@pytest.mark.parametrize(
    ("part", "field", "value", "said"),
    [
        (None, "seed", -5, "0 <= seed < 2**32 must hold, but got -5"),
        (None, "seed", 2**70, "seed"),
        ("execution", "num_threads", -1, "1 <= num_threads <= 1024 must hold, but got -1"),
        ("execution", "num_threads", 10**6, "num_threads"),
        ("strategy", "lora_alpha", 0, "lora_alpha >= 1 must hold"),
    ],
)
def test_values_that_a_run_would_stumble_over_are_refused(
    tmp_path: Path, part: str | None, field: str, value: int, said: str
) -> None:
    values = json.loads(written(tmp_path).read_text())
    changes = {part: values[part] | {field: value}} if part else {field: value}
    with pytest.raises(PlanError) as refused:
        load_plan(written(tmp_path, **changes))
    assert len(refused.value.problems) == 1 and said in refused.value.problems[0]


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"plan"', '{"schema_version": 1}', "\x00\x01"])
def test_files_that_are_no_plan_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(PlanError):
        load_plan(path)


def test_a_truncated_plan_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    make_plan().save(path)
    path.write_text(path.read_text()[:-200])
    with pytest.raises(PlanError, match="line"):
        load_plan(path)
