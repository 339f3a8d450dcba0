"""The class table: seconds of an operator over its work, fitted to calls that were timed.

All fits of a calibration are non-negative least squares on relative errors: a coefficient is a cost, and an error of
10 % counts the same at a microsecond as at a second.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from advisor.core.coefficients import ClassFit, ReplayPoint
from advisor.costmodel.time.device_rates import DeviceRates

Floats = npt.NDArray[np.float64]

CACHE_CANDIDATES_BYTES = (2**18, 2**20, 2**22, 2**24, 2**25)
"""Where traffic may change from cache to memory; 32 MiB is also where glibc takes fresh pages for every call, unless
the process keeps freed memory (``hardware.cpu_process``)."""
MIN_POINTS_FOR_KINK = 8
EMPTY_CALL_S, EMPTY_CALL_WEIGHT = 4e-6, 0.05
"""A call without work takes about the dispatcher's time. Weak, but it decides where one replay alone could be all
overhead or all work: then it is work, and smaller calls come out shorter."""
RATE_WEIGHT = 0.03
"""Of "a FLOP, and a byte, takes what the device's rates say", beside 1 of the most important call. Calls of one batch
leave open which of the two they take their time for: both grow with the weights alone. From a quick calibration, whose
4-bit products all had 32 tokens, a step of 1,024 was predicted 87 % too long without it and 32 % with it, and other
models' steps as well as without it; 0.06 and 0.1 did the same."""
FAR_BEYOND_RATES = 10.0
"""Coefficients this many times what the rates say are not drawn to them any stronger: a byte of tiny calls stands for
their overhead."""
MIN_POINTS_PER_OPERATOR = 3
"""Fewer replays than this cannot tell an operator's overhead from its rate; its class then speaks for it."""
SMALLEST_S = 2e-6
"""Weights are relative down to this: below it the clock's own resolution and the dispatcher dominate."""


def fit_classes(replays: Iterable[ReplayPoint], rates: DeviceRates) -> tuple[dict[str, ClassFit], dict[str, ClassFit]]:
    """The class table: fits by class and data type, and by operator where there are enough replays of one.

    Args:
        replays: Calls that were timed.
        rates: Of the device, for what the calls leave open.
    """
    classes: dict[str, list[ReplayPoint]] = {}
    operators: dict[str, list[ReplayPoint]] = {}
    for point in replays:
        classes.setdefault(point.key.rpartition("/")[0], []).append(point)
        operators.setdefault(point.key, []).append(point)
    by_class = {key: fit_class(points, rates) for key, points in sorted(classes.items())}
    enough = {key: points for key, points in sorted(operators.items()) if len(points) >= MIN_POINTS_PER_OPERATOR}
    return by_class, {key: fit_class(points, rates) for key, points in enough.items()}


def fit_class(points: list[ReplayPoint], rates: DeviceRates) -> ClassFit:
    """Fit one class; the break between cache and memory traffic is the candidate with the smallest error.

    The weight of a call grows with the root of how often it occurs, and of its own time: what fills the step must fit
    best.
    """
    flops = np.array([p.flops for p in points], dtype=np.float64)
    moved = np.array([p.moved_bytes for p in points], dtype=np.float64)
    seconds = np.array([p.median_s for p in points], dtype=np.float64)
    shares = np.array([p.share for p in points], dtype=np.float64)
    weights = np.sqrt(shares * np.maximum(seconds, SMALLEST_S))
    weights /= weights.max() * np.maximum(seconds, SMALLEST_S)
    assumed, beliefs = _assumed(points, rates)
    candidates = CACHE_CANDIDATES_BYTES if len(points) >= MIN_POINTS_FOR_KINK else (2**62,)
    fits = {size: _leaning(_features(flops, moved, size), seconds, weights, assumed, beliefs) for size in candidates}
    near_bytes = min(fits, key=lambda size: fits[size][1])
    c = fits[near_bytes][0]
    predicted = _features(flops, moved, near_bytes) @ c
    return ClassFit(
        overhead_s=float(c[0]),
        s_per_flop=float(c[1]),
        s_per_near_byte=float(c[2]),
        s_per_far_byte=float(c[3]) if (moved > near_bytes).any() else float(c[2]),
        near_bytes=near_bytes,
        samples=len(points),
        residual_relative=float(np.median(np.abs(predicted / np.maximum(seconds, 1e-12) - 1))),
        max_flops=int(flops.max()),
        max_bytes=int(moved.max()),
    )


def _assumed(points: list[ReplayPoint], rates: DeviceRates) -> tuple[Floats, Floats]:
    """What a call, a FLOP, a byte from cache and one from memory cost without these points, and how much that weighs.

    Calls are believed to cost anything once there are enough of them, and the rest where the rates are not known.
    """
    of_empty_call = EMPTY_CALL_WEIGHT if len(points) < MIN_POINTS_PER_OPERATOR else 0.0
    if not rates.known:
        return np.array([EMPTY_CALL_S, 1.0, 1.0, 1.0]), np.array([of_empty_call, 0.0, 0.0, 0.0])
    per_flop, per_byte = rates.slopes(*points[0].key.split("/", 2))
    return np.array([EMPTY_CALL_S, per_flop, per_byte, per_byte]), np.array([of_empty_call, *(RATE_WEIGHT,) * 3])


def _leaning(
    features: Floats, targets: Floats, weights: Floats, assumed: Floats, beliefs: Floats
) -> tuple[Floats, float]:
    """Least squares that lean towards assumed coefficients, unless the points put them far beyond."""
    plain, _ = non_negative(features, targets, weights)
    reference = np.maximum(assumed, plain / FAR_BEYOND_RATES)
    return non_negative(
        np.vstack([features, np.diag(1 / reference)]),
        np.append(targets, assumed / reference),
        np.append(weights, beliefs * features.any(axis=0)),
    )


def _features(flops: Floats, moved: Floats, near_bytes: int) -> Floats:
    near = np.minimum(moved, near_bytes)
    return np.stack([np.ones_like(flops), flops, near, moved - near], axis=1)


def non_negative(features: Floats, targets: Floats, weights: Floats) -> tuple[Floats, float]:
    """Weighted non-negative least squares; columns are scaled so that seconds per byte and per call meet on equal
    terms.
    """
    from scipy.optimize import nnls

    weighted = features * weights[:, None]
    scale = np.maximum(np.abs(weighted).max(axis=0), 1e-30)
    solution, error = nnls(weighted / scale, targets * weights)
    return solution / scale, float(error)
