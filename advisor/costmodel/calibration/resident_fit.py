"""The resident set of a training process over what the traced allocations make its heap grow to."""

from __future__ import annotations

import statistics

import numpy as np

from advisor.costmodel.calibration.class_table import non_negative
from advisor.costmodel.calibration.record import ResidentFit, StepPoint


def fit_resident(points: list[StepPoint]) -> ResidentFit | None:
    """Resident set over weights and heap; ``None`` without points that know both.

    What the heap has grown to is resident, so only the part beyond it is fitted, and it is never negative. Models in 4
    bits are left out: calibration draws them in full precision first, which may be their peak.
    """
    known = [p for p in points if p.heap_bytes and p.resident_peak_bytes and p.method != "qlora"]
    if not known:
        return None
    weights = np.array([p.weights_bytes for p in known], dtype=np.float64)
    heap = np.array([p.heap_bytes for p in known], dtype=np.float64)
    resident = np.array([p.resident_peak_bytes for p in known], dtype=np.float64)
    start = float(statistics.median(p.baseline_resident_bytes for p in known))
    features = np.stack([np.ones_like(heap), heap], axis=1)
    remainder = np.maximum(resident - start - weights - heap, 0.0)
    extra, _ = non_negative(features, remainder, 1 / resident)
    baseline, per_byte = start + float(extra[0]), 1 + float(extra[1])
    errors = (baseline + weights + per_byte * heap) / resident - 1
    return ResidentFit(round(baseline), per_byte, float(np.sqrt(np.mean(errors**2))), len(known))
