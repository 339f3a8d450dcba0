"""Where a run's wall clock went."""

from __future__ import annotations

import pytest

from advisor.training.wall_clock import run_parts

STEPS_S = (3.0, 1.0, 1.2, 1.1)
SECONDS = {
    "total": 20.0,
    "earlier": 0.0,
    "data": 1.0,
    "loading": 2.0,
    "set_up": 0.7,
    "training": 15.0,
    "preparing": 0.5,
    "evaluation": 2.5,
    "checkpoints": 1.5,
    "saving": 1.0,
}


def test_parts_add_up_to_the_run() -> None:
    parts = run_parts(STEPS_S, SECONDS)
    assert sum(parts.values()) == pytest.approx(20.0)
    assert parts["warm_up"] == pytest.approx(3.0 - 1.1)
    assert parts["training"] == pytest.approx(6.3 - 1.9)
    assert parts["between_steps"] == pytest.approx(15.0 - 0.5 - 6.3 - 2.5 - 1.5)
    assert parts["other"] == pytest.approx(20.0 - 1.0 - 2.0 - 0.7 - 14.5 - 1.0)


def test_a_resumed_run_tells_what_came_before() -> None:
    parts = run_parts(STEPS_S, {**SECONDS, "total": 30.0, "earlier": 10.0})
    assert parts["earlier"] == 10.0
    assert sum(parts.values()) == pytest.approx(30.0)


def test_two_steps_cannot_tell_a_warm_up() -> None:
    assert run_parts((3.0, 1.0), SECONDS)["warm_up"] == 0.0
