"""Job: what makes the peak of one exact configuration, and which neighbouring choice would lower it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from advisor.core.cost import CostEstimate
from advisor.core.data import padded_length
from advisor.pipeline.events import OnEvent, counted_progress, phase
from advisor.pipeline.predicting import Configuration, cost_model_for

if TYPE_CHECKING:
    from advisor.costmodel.explain.records import PeakExplanation
    from advisor.search.sensitivity import ChangeComparison


@dataclass(frozen=True)
class Explanation:
    """A prediction, explained.

    Attributes:
        peak: What is alive at the peak of live tensors, and how live bytes move over the step.
        comparison: Neighbouring choices.
        note: Where the device's own peak is not that of the step; ``None`` otherwise.
    """

    peak: PeakExplanation
    comparison: ChangeComparison
    note: str | None = None


def explain(configuration: Configuration, estimate: CostEstimate, on_event: OnEvent | None = None) -> Explanation:
    """Trace the configuration at full depth with the origin of every tensor, and predict its neighbours.

    Args:
        configuration: As it was predicted.
        estimate: Its prediction.
        on_event: Receives the job's events (:mod:`advisor.core.events`).

    Raises:
        UntraceableError: the configuration cannot be traced.
    """
    from advisor.costmodel.explain.peak import explain_peak
    from advisor.costmodel.memory.overheads import untraced_batch_bytes
    from advisor.search.sensitivity import compare

    execution = configuration.execution
    length = padded_length(execution.max_seq_length)
    phase(on_event, "analysing the peak")
    peak = explain_peak(
        configuration.model,
        configuration.strategy,
        execution,
        configuration.device,
        seq_length=length,
        evaluation=estimate.memory.peak_phase == "evaluation",
        extra_batch_bytes=untraced_batch_bytes(execution, execution.micro_batch_size, length),
    )
    phase(on_event, "comparing single-change alternatives")
    comparison = compare(
        configuration.model,
        configuration.strategy,
        execution,
        configuration.data,
        cost_model_for(configuration.device, evaluation=configuration.evaluation),
        {share.name: share.live_bytes for share in peak.by_kind},
        budget=configuration.budget,
        on_progress=counted_progress(on_event),
    )
    return Explanation(peak, comparison, _note(estimate.memory.peak_phase))


def _note(peak_phase: str) -> str | None:
    if peak_phase in ("forward", "backward", "optimizer", "evaluation"):
        return None
    return f"the device's peak is in the phase {peak_phase}; this is the peak of the training step"
