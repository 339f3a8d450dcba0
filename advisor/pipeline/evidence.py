"""Evidence: short real runs that turn the prior of a recommendation into a prediction for this very task."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

from advisor.core.device import DeviceProfile
from advisor.core.errors import InputError
from advisor.core.model import ModelSpec
from advisor.core.plan import Plan
from advisor.core.recommendation import Recommendation
from advisor.core.run import Measurement
from advisor.core.units import counted
from advisor.pipeline.environment import this_device_id
from advisor.pipeline.events import OnEvent, counted_progress, phase, steps_only


def check_evidence(model: ModelSpec, device: DeviceProfile) -> None:
    """Refuse short runs that cannot be made here.

    Raises:
        InputError: the model has no weights, or the device is another machine's.
    """
    if not model.has_weights:
        raise InputError(
            f"--evidence trains the model and needs weights, but {model.source} has none",
            fix="use a model with weights, or omit --evidence",
        )
    here = this_device_id()
    if device.id != here:
        raise InputError(
            f"--evidence trains the model on this machine, but the plan is for {device.id!r}",
            fix="omit --evidence, or plan with --device auto",
        )


KILL_AFTER_S = 2.0
"""A short run that is still going on this long after its time is ended."""


def with_evidence(recommendation: Recommendation, budget_s: float, on_event: OnEvent | None) -> Recommendation:
    """Spend ``budget_s`` on short runs of the leading plans, and rank again by what they and the probe showed."""
    from advisor.calibration.evidence import gather_evidence
    from advisor.costmodel.quality.model import QualityModel
    from advisor.costmodel.quality.probed import ProbedQuality
    from advisor.search.planner import rerank

    phase(on_event, "short training runs for evidence")
    with tempfile.TemporaryDirectory(prefix="advisor-evidence-") as scratch:
        measure = _Measure(Path(scratch), on_event)
        plans = [ranked.plan for ranked in recommendation.ranked]
        evidence = gather_evidence(
            plans, budget_s=budget_s, measure=measure, on_progress=counted_progress(on_event, rows="rows")
        )
    quality = QualityModel(evidence=evidence)
    if recommendation.probe is not None:
        quality = ProbedQuality(recommendation.probe, evidence=evidence)
    after = rerank(recommendation, quality)
    spent = f"evidence: {counted(len(evidence.runs), 'short run')} in {evidence.elapsed_s:.0f} s"
    failed = [
        f"{run.strategy.method} on {run.train_rows} rows: {run.reason}" for run in evidence.runs if not run.usable
    ]
    failed += [f"{run.strategy.method} on {run.train_rows} rows stayed at chance level" for run in evidence.at_chance]
    return dataclasses.replace(after, advice=(*after.advice, spent, *evidence.notes, *failed))


class _Measure:
    """Runs a plan in a folder of its own."""

    def __init__(self, scratch: Path, on_event: OnEvent | None) -> None:
        self._scratch = scratch
        self._on_event = on_event
        self._runs = 0

    def __call__(self, plan: Plan, limit_s: float) -> Measurement:
        from advisor.measurement.run import measure_run

        self._runs += 1
        folder = self._scratch / f"run-{self._runs}"
        return measure_run(
            plan,
            folder,
            on_event=steps_only(self._on_event),
            profile=False,
            time_limit_s=max(limit_s - KILL_AFTER_S, 0.0),
            grace_s=KILL_AFTER_S,
        )
