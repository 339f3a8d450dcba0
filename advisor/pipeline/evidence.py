"""Evidence: short real runs that turn the prior of a recommendation into a prediction for this very task."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

from advisor.core.device import DeviceProfile
from advisor.core.errors import InputError
from advisor.core.model import ModelSpec
from advisor.core.plan import Plan
from advisor.core.recommendation import RankedPlan, Recommendation
from advisor.core.run import Measurement
from advisor.core.units import counted
from advisor.pipeline.environment import this_device_id
from advisor.pipeline.events import OnEvent, counted_progress, phase, steps_only
from advisor.reporting.text import format_quality


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


def with_evidence(recommendation: Recommendation, budget_s: float, on_event: OnEvent | None) -> Recommendation:
    """Spend ``budget_s`` on short runs of the leading plans, and rank again by what they showed.

    The prior's own figure of every plan is kept as a note beside the new one, so that both can be verified later.
    """
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
    before = {_key(ranked.plan): ranked for ranked in recommendation.ranked}
    quality = QualityModel(evidence=evidence)
    if recommendation.probe is not None:
        quality = ProbedQuality(recommendation.probe, evidence=evidence)
    after = rerank(recommendation, quality)
    ranked_plans = tuple(_with_prior_note(ranked, before[_key(ranked.plan)]) for ranked in after.ranked)
    count = len(evidence.runs)
    spent = f"evidence: {counted(count, 'short run')} in {evidence.elapsed_s:.0f} s"
    failed = [
        f"{run.strategy.method} on {run.train_rows} rows: {run.reason}" for run in evidence.runs if not run.usable
    ]
    return dataclasses.replace(after, ranked=ranked_plans, advice=(*after.advice, spent, *evidence.notes, *failed))


class _Measure:
    """Runs a plan in a folder of its own."""

    def __init__(self, scratch: Path, on_event: OnEvent | None) -> None:
        self._scratch = scratch
        self._on_event = on_event
        self._runs = 0

    def __call__(self, plan: Plan) -> Measurement:
        from advisor.measurement.run import measure_run

        self._runs += 1
        folder = self._scratch / f"run-{self._runs}"
        return measure_run(plan, folder, on_event=steps_only(self._on_event), profile=False)


def _key(plan: Plan) -> tuple[str, str]:
    return (repr(plan.strategy), repr(plan.execution))


def _with_prior_note(ranked: RankedPlan, before: RankedPlan) -> RankedPlan:
    predicted, prior = ranked.plan.predicted, before.plan.predicted
    if predicted is None or prior is None or prior.quality is None or predicted.quality == prior.quality:
        return ranked
    note = f"from the prior alone: {prior.quality.metric.title} {format_quality(prior.quality)}"
    noted = dataclasses.replace(predicted, notes=(*predicted.notes, note))
    return dataclasses.replace(ranked, plan=dataclasses.replace(ranked.plan, predicted=noted))
