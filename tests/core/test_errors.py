"""Every expected failure has an exit code, a kind of its own, and a JSON form."""

import pytest

from advisor.core import errors
from advisor.core.errors import (
    AdvisorError,
    BudgetError,
    DataError,
    DeviceError,
    InputError,
    InterruptedByUser,
    ModelError,
    NothingFitsError,
    OutputError,
    PlanError,
    RunFailed,
    UntraceableError,
)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (InputError, 2),
        (BudgetError, 2),
        (ModelError, 2),
        (DataError, 2),
        (PlanError, 2),
        (DeviceError, 2),
        (OutputError, 2),
        (UntraceableError, 2),
        (NothingFitsError, 3),
        (RunFailed, 1),
        (InterruptedByUser, 130),
    ],
)
def test_exit_codes(kind: type[AdvisorError], code: int) -> None:
    assert kind("x").exit_code == code


def test_kinds_are_distinct() -> None:
    kinds = [
        value.kind for value in vars(errors).values() if isinstance(value, type) and issubclass(value, AdvisorError)
    ]
    assert len(kinds) == len(set(kinds)) > 10


def test_the_text_gives_rule_problems_and_fix() -> None:
    error = InputError("a must hold", fix="do b", problems=["x: wrong", "y: wrong"])
    assert str(error) == "a must hold\n  - x: wrong\n  - y: wrong\nFix: do b"
    assert error.to_dict() == {
        "error": "bad_input",
        "message": "a must hold",
        "problems": ["x: wrong", "y: wrong"],
        "fix": "do b",
        "exit_code": 2,
    }
