"""Where the wall clock of a run went, in the parts that the cost model predicts."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

LEAST_STEPS = 3
"""Fewer steps cannot tell what the first one took beyond the others."""


@dataclass(frozen=True)
class Stopwatch:
    """Raw wall-clock figures of one training process, in seconds.

    Attributes:
        total_s: Of the whole run, earlier processes included.
        earlier_s: Of the processes that a resumed run continues, and of an attempt of this one that was given up.
        data_s: Reading and tokenising.
        loading_s: Building the model.
        set_up_s: Putting the Trainer together, and its own preparations up to the first step.
        trainer_s: All of ``Trainer.train``.
        preparing_s: Of that, before the first step; also part of ``set_up_s``.
        step_times_s: Every optimizer step of this process.
        evaluation_s: Evaluations within training.
        checkpoints_s: Writing checkpoints.
        saving_s: Writing the result.
    """

    total_s: float
    earlier_s: float
    data_s: float
    loading_s: float
    set_up_s: float
    trainer_s: float
    preparing_s: float
    step_times_s: Sequence[float]
    evaluation_s: float
    checkpoints_s: float
    saving_s: float


def run_parts(watch: Stopwatch) -> dict[str, float]:
    """Seconds by part, named as in ``TimeEstimate.parts``.

    With ``earlier`` (of a resumed run) and ``other`` they add up to the whole run.
    """
    steps_s = sum(watch.step_times_s)
    warm_up_s = _warm_up_s(watch.step_times_s)
    between_s = watch.trainer_s - watch.preparing_s - steps_s - watch.evaluation_s - watch.checkpoints_s
    parts = {
        "data": watch.data_s,
        "loading": watch.loading_s,
        "set_up": watch.set_up_s,
        "warm_up": warm_up_s,
        "training": steps_s - warm_up_s,
        "between_steps": max(0.0, between_s),
        "evaluation": watch.evaluation_s,
        "checkpoints": watch.checkpoints_s,
        "saving": watch.saving_s,
    }
    if watch.earlier_s:
        parts["earlier"] = watch.earlier_s
    return parts | {"other": watch.total_s - sum(parts.values())}


def _warm_up_s(step_times_s: Sequence[float]) -> float:
    """What the first step took beyond the median of the others."""
    if len(step_times_s) < LEAST_STEPS:
        return 0.0
    return max(0.0, step_times_s[0] - statistics.median(step_times_s[1:]))
