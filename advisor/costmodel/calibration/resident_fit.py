"""The resident set of a training process over its allocated and transient bytes."""

from __future__ import annotations

import statistics

import numpy as np

from advisor.costmodel.calibration.class_table import non_negative
from advisor.costmodel.calibration.record import ResidentFit, StepPoint


def fit_resident(points: list[StepPoint]) -> ResidentFit | None:
    """Resident set over allocated and transient bytes; ``None`` without points that measured them.

    What is allocated and used is resident, so only the part beyond it is fitted, and it is never negative.
    """
    known = [p for p in points if p.allocated_peak_bytes and p.transient_peak_bytes is not None]
    if not known:
        return None
    allocated = np.array([p.allocated_peak_bytes for p in known], dtype=np.float64)
    transient = np.array([p.transient_peak_bytes for p in known], dtype=np.float64)
    resident = np.array([p.resident_peak_bytes for p in known], dtype=np.float64)
    start = float(statistics.median(p.baseline_resident_bytes for p in known))
    features = np.stack([np.ones_like(transient), transient], axis=1)
    remainder = np.maximum(resident - start - allocated, 0.0)
    extra, _ = non_negative(features, remainder, 1 / resident)
    baseline, slope = start + float(extra[0]), float(extra[1])
    errors = (baseline + allocated + slope * transient) / resident - 1
    return ResidentFit(round(baseline), slope, float(np.sqrt(np.mean(errors**2))), len(known))
