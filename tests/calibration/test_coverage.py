"""What a calibration covers, and what is missing in it."""

from __future__ import annotations

import dataclasses

from advisor.calibration.report import MANY_HELD_OUT, coverage, unknowns
from advisor.core.coefficients import Calibration, ClassFit, HeldOutError
from advisor.core.plan import ExecutionPlan
from advisor.costmodel.time.operator_times import execution_key
from tests.calibration.calibrations import calibration, step_point

METHODS = ("full", "lora")


def said(found: Calibration) -> str:
    return "\n".join(unknowns(found, METHODS))


def complete() -> Calibration:
    """Both methods, a range of shapes, checkpointing and bfloat16, a well-tested fit."""
    keys = [
        execution_key(ExecutionPlan(8, max_seq_length=64, **knobs))  # type: ignore[arg-type]
        for knobs in ({}, {"gradient_checkpointing": True}, {"amp": "bf16"})
    ]
    points = [
        step_point(model_key=f"model for {key}", method=method, execution_key=key, micro_batch_size=rows)
        for method in METHODS
        for key in keys
        for rows in (2, 32)
    ]
    tested = HeldOutError(0.03, 0.1, MANY_HELD_OUT, "cross-validation")
    return dataclasses.replace(calibration(points), held_out=tested)


def test_a_complete_one_only_admits_its_range() -> None:
    assert unknowns(complete(), METHODS) == ("micro-batches below 128 or above 2,048 tokens are extrapolated",)


def test_what_is_missing_is_said() -> None:
    assert "no step of full was measured" in said(calibration([step_point()]))
    assert "gradient checkpointing or bfloat16" in said(calibration([step_point()]))
    assert "until a second model is calibrated" in said(calibration([step_point()]))
    assert "other than 512 tokens" in said(calibration([step_point()]))
    assert "no real step" in said(calibration([]))
    assert "parts are missing: interrupted" in said(dataclasses.replace(complete(), partial="interrupted"))
    assert "too noisy" in said(calibration([step_point(step_times_s=(0.1, 0.3, 0.1, 0.3, 0.2))]))
    assert "unknown" in said(dataclasses.replace(complete(), held_out=None))
    assert "comes from 3" in said(
        dataclasses.replace(complete(), held_out=HeldOutError(0.1, 0.2, 3, "cross-validation"))
    )


def test_weak_and_poor_classes_are_named_but_not_all() -> None:
    poor = ClassFit(1e-6, 1e-11, 1e-10, 1e-10, 1000, 9, 0.5, 10**9, 10**7)
    worst = dataclasses.replace(poor, residual_relative=0.9)
    classes = {**{f"kind{n}/float32": poor for n in range(5)}, "worst/float32": worst}
    text = said(dataclasses.replace(complete(), classes=classes))
    assert "calls of worst/float32, kind0/float32" in text
    assert "and 2 more classes" in text
    weak = dataclasses.replace(complete(), classes={"conv/float32": dataclasses.replace(poor, samples=1)})
    assert "conv/float32 has fewer than 3 calls" in said(weak)


def test_coverage_is_by_model() -> None:
    points = [step_point(), step_point(method="full", micro_batch_size=2), step_point(model_key="another")]
    first, second = coverage(calibration(points))
    assert (first.methods, first.shapes, first.configurations) == (("lora", "full"), ((2, 64), (8, 64)), 2)
    assert second.model_key == "another"
    assert coverage(calibration([])) == ()
