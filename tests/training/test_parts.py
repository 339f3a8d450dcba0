"""Where a run's wall clock went."""

from __future__ import annotations

import dataclasses

import pytest

from advisor.training.phases import Stopwatch, run_parts

WATCH = Stopwatch(
    total_s=20.0,
    earlier_s=0.0,
    data_s=1.0,
    loading_s=2.0,
    set_up_s=0.7,
    trainer_s=15.0,
    preparing_s=0.5,
    step_times_s=(3.0, 1.0, 1.2, 1.1),
    evaluation_s=2.5,
    checkpoints_s=1.5,
    saving_s=1.0,
)


def test_parts_add_up_to_the_run() -> None:
    parts = run_parts(WATCH)
    assert sum(parts.values()) == pytest.approx(20.0)
    assert parts["warm_up"] == pytest.approx(3.0 - 1.1)
    assert parts["training"] == pytest.approx(6.3 - 1.9)
    assert parts["between_steps"] == pytest.approx(15.0 - 0.5 - 6.3 - 2.5 - 1.5)
    assert parts["other"] == pytest.approx(20.0 - 1.0 - 2.0 - 0.7 - 14.5 - 1.0)


def test_a_resumed_run_tells_what_came_before() -> None:
    parts = run_parts(dataclasses.replace(WATCH, total_s=30.0, earlier_s=10.0))
    assert parts["earlier"] == 10.0
    assert sum(parts.values()) == pytest.approx(30.0)


def test_two_steps_cannot_tell_a_warm_up() -> None:
    assert run_parts(dataclasses.replace(WATCH, step_times_s=(3.0, 1.0)))["warm_up"] == 0.0
