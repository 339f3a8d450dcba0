"""Steps as they would have been on a machine of even speed.

Shared machines drift: the same step took twice as long while a neighbour worked. The fixed work load that is run beside
every measured step slows down with it, so their ratio hardly moves.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence

from advisor.costmodel.calibration.record import StepPoint

MOST_CORRECTION = 3.0
"""A reference further from the median than this says that something else went wrong with one of them."""


def steady(points: Sequence[StepPoint]) -> list[StepPoint]:
    """The points with all times scaled to the median reference; those without one stay as they are.

    Points of several files or models are compared with one median: what a user predicts is this machine as it usually
    is.
    """
    references = [p.reference_s for p in points if p.reference_s > 0]
    if not references:
        return list(points)
    usual_s = statistics.median(references)
    return [_scaled(p, usual_s / p.reference_s) if p.reference_s > 0 else p for p in points]


def _scaled(point: StepPoint, factor: float) -> StepPoint:
    factor = min(max(factor, 1 / MOST_CORRECTION), MOST_CORRECTION)
    return dataclasses.replace(
        point,
        step_times_s=tuple(t * factor for t in point.step_times_s),
        work_s=tuple(t * factor for t in point.work_s),
        evaluation_times_s=tuple(t * factor for t in point.evaluation_times_s),
        evaluation_work_s=tuple(t * factor for t in point.evaluation_work_s),
    )
