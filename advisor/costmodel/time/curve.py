"""Step time over padded length: asked at a few lengths, linear between them."""

from __future__ import annotations

import bisect
from collections.abc import Callable

from advisor.costmodel.time.lengths import PaddedLengths
from advisor.costmodel.time.step import StepTime

StepTimeOf = Callable[[int], StepTime]
"""Padded length in tokens -> time of one optimizer step whose micro-batches all have that length."""

NODES = 5
"""Lengths at which the step is evaluated. Over a quarter of the range attention's square bends little: with 30 % of the
time at 512 tokens from attention, a chord of 128 tokens is at most 0.8 % of that too high (h^2 / 8 times the second
derivative)."""


class LengthCurve:
    """Time of a step, or of an evaluation batch, at any length of a distribution.

    Args:
        step_time_of: Asked at no more than seven lengths.
        lengths: Where it will be needed.

    Attributes:
        reference: The prediction at the median length, whose interval, evidence and basis stand for all.
        mean_s: Over the distribution.
    """

    def __init__(self, step_time_of: StepTimeOf, lengths: PaddedLengths) -> None:
        low, high = lengths.lengths[0], lengths.lengths[-1]
        inner = {low + round((high - low) * i / (NODES - 1) / 8) * 8 for i in range(1, NODES - 1)}
        median = lengths.quantile(0.5)
        self._nodes = sorted({low, high, median} | {length for length in inner if low < length < high})
        times = {length: step_time_of(length) for length in self._nodes}
        self._times = [times[length].seconds for length in self._nodes]
        self.reference = times[median]
        self.mean_s = sum(
            self(length) * weight for length, weight in zip(lengths.lengths, lengths.weights, strict=True)
        )

    def __call__(self, length: float) -> float:
        """Seconds at ``length`` tokens."""
        nodes, times = self._nodes, self._times
        if len(nodes) == 1:
            return times[0]
        right = min(max(bisect.bisect_left(nodes, length), 1), len(nodes) - 1)
        slope = (times[right] - times[right - 1]) / (nodes[right] - nodes[right - 1])
        return max(times[right - 1] + slope * (length - nodes[right - 1]), 0.0)
