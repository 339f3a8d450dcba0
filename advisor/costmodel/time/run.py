"""From the time of a step to the time of a whole run over the data set's real length distribution."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable
from dataclasses import dataclass

from advisor.core.cost import Interval, TimeEstimate
from advisor.core.data import DataProfile
from advisor.core.device import DeviceProfile
from advisor.core.plan import ExecutionPlan
from advisor.core.strategy import StrategyConfig
from advisor.costmodel.time.lengths import PaddedLengths, micro_batch_lengths, padded_lengths
from advisor.costmodel.time.step import StepTime

StepTimeOf = Callable[[int], StepTime]
"""Padded length in tokens -> time of one optimizer step whose micro-batches all have that length."""

NODES = 5
"""Lengths at which the step is evaluated; between them it is interpolated linearly (attention's square bends it little
over a quarter of the range)."""
FORWARD_SHARE = 1 / 3
"""Forward over forward plus backward, when no evaluation pass was traced: a backward pass costs two forward passes in
matrix products (Kaplan et al. 2020, C = 6 N D, of which 2 N D forward)."""
STORAGE_BYTES_PER_S = 500e6
"""Reading and writing files where nothing was measured: a SATA solid-state disk (SATA 3: 600 MB/s less encoding and
protocol). Loading and saving are a small part of any run, and their interval is wide."""
START_UP_S = 1.5
"""Building the model and the Trainer besides reading the weights: 1.8 s for MiniLM on two busy server cores
(transformers 5.23), weights included; libraries are imported before the clock starts."""
FIXED_PARTS_HALF_WIDTH = 1.0
"""Loading and saving may take half or twice as long: caches and disks differ."""


@dataclass(frozen=True)
class RunShape:
    """What a run consists of, besides its steps.

    Attributes:
        weights_bytes: Read from disk when loading.
        saved_bytes: Written by one save of the trained part.
        saves: How often.
        evaluations: Passes over the held-out rows.
        loading_s: Measured loading time, when there is one.
    """

    weights_bytes: int = 0
    saved_bytes: int = 0
    saves: int = 1
    evaluations: int = 1
    loading_s: float | None = None


def optimizer_steps(data: DataProfile, strategy: StrategyConfig, execution: ExecutionPlan) -> int:
    """Optimizer steps of the run, as ``transformers.Trainer`` counts them.

    Micro-batches per epoch are rounded up; so are the steps made of them (the last one may be smaller).
    """
    micro_batches = math.ceil(data.train_rows / execution.micro_batch_size)
    per_epoch = max(1, math.ceil(micro_batches / execution.gradient_accumulation_steps))
    return max(1, math.ceil(per_epoch * strategy.num_train_epochs))


def run_time(
    step_time_of: StepTimeOf,
    data: DataProfile,
    strategy: StrategyConfig,
    execution: ExecutionPlan,
    device: DeviceProfile,
    *,
    evaluation_time_of: StepTimeOf | None = None,
    shape: RunShape | None = None,
) -> TimeEstimate:
    """Predict the whole run.

    ``step_s`` is the median optimizer step over the data's length distribution: with one micro-batch the step at the
    median padded length, with several the mean, because sums of independent micro-batches are nearly symmetric.

    Args:
        step_time_of: Time of an optimizer step at one padded length (all its micro-batches, and the update).
        data: Lengths and row counts.
        strategy: Epochs.
        execution: Batch sizes and cut-off.
        device: Its storage rate, when it was probed.
        evaluation_time_of: Time of one evaluation batch (``eval_batch_size`` rows) at one padded length; a third of a
            training step's rows' time when ``None``.
        shape: Loading, evaluations and saves.
    """
    parts_of = shape or RunShape()
    lengths = micro_batch_lengths(data, execution)
    curve = _Curve(step_time_of, lengths)
    mean_s = sum(curve(length) * weight for length, weight in zip(lengths.lengths, lengths.weights, strict=True))
    step_s = curve(lengths.quantile(0.5)) if execution.gradient_accumulation_steps == 1 else mean_s
    steps = optimizer_steps(data, strategy, execution)
    storage = device.bytes_per_s["storage"].value if "storage" in device.bytes_per_s else STORAGE_BYTES_PER_S
    parts = {
        "loading": parts_of.loading_s
        if parts_of.loading_s is not None
        else START_UP_S + parts_of.weights_bytes / storage,
        "training": steps * mean_s,
        "evaluation": parts_of.evaluations * _evaluation_s(evaluation_time_of, curve, data, execution),
        "saving": parts_of.saves * parts_of.saved_bytes / storage,
    }
    return _estimate(step_s, parts, curve.reference, data, execution)


def _estimate(
    step_s: float, parts: dict[str, float], reference: StepTime, data: DataProfile, execution: ExecutionPlan
) -> TimeEstimate:
    total_s = sum(parts.values())
    low, high = reference.low / reference.seconds, reference.high / reference.seconds
    compute_s = parts["training"] + parts["evaluation"]
    fixed_s = parts["loading"] + parts["saving"]
    intervals = {
        "step_s": Interval(step_s * low, step_s * high),
        "total_s": Interval(
            compute_s * low + fixed_s / (1 + FIXED_PARTS_HALF_WIDTH),
            compute_s * high + fixed_s * (1 + FIXED_PARTS_HALF_WIDTH),
        ),
    }
    rows = execution.effective_batch_size
    return TimeEstimate(
        step_s=step_s,
        samples_per_s=rows / step_s,
        tokens_per_s=rows * _mean_tokens(data, execution) / step_s,
        total_s=total_s,
        intervals=intervals,
        parts=parts,
        evidence=reference.evidence,
        basis=reference.basis,
    )


def _evaluation_s(
    evaluation_time_of: StepTimeOf | None, curve: _Curve, data: DataProfile, execution: ExecutionPlan
) -> float:
    """One pass over the held-out rows in order, in batches of ``eval_batch_size``."""
    if data.eval_rows == 0:
        return 0.0
    rows = min(execution.eval_batch_size, data.eval_rows)
    batches = math.ceil(data.eval_rows / execution.eval_batch_size)
    lengths = padded_lengths(data, rows, max_seq_length=execution.max_seq_length, padded=execution.padded)
    if evaluation_time_of is not None:
        forward = _Curve(evaluation_time_of, lengths)
        return batches * sum(forward(x) * weight for x, weight in zip(lengths.lengths, lengths.weights, strict=True))
    per_row_s = curve(round(lengths.mean)) / execution.effective_batch_size
    return data.eval_rows * per_row_s * FORWARD_SHARE


def _mean_tokens(data: DataProfile, execution: ExecutionPlan) -> float:
    """Mean of the real tokens of a row after the cut."""
    quantiles = [min(tokens, execution.max_seq_length) for tokens in data.token_length_quantiles]
    if len(quantiles) == 1:
        return float(quantiles[0])
    return (sum(quantiles) - (quantiles[0] + quantiles[-1]) / 2) / (len(quantiles) - 1)


class _Curve:
    """Step time over padded length: evaluated at a few lengths, linear between them.

    Attributes:
        reference: The prediction at the median length, whose interval, evidence and basis stand for the run.
    """

    def __init__(self, step_time_of: StepTimeOf, lengths: PaddedLengths) -> None:
        low, high = lengths.lengths[0], lengths.lengths[-1]
        inner = {low + round((high - low) * i / (NODES - 1) / 8) * 8 for i in range(1, NODES - 1)}
        median = lengths.quantile(0.5)
        self._nodes = sorted({low, high, median} | {length for length in inner if low < length < high})
        times = {length: step_time_of(length) for length in self._nodes}
        self._times = [times[length].seconds for length in self._nodes]
        self.reference = times[median]

    def __call__(self, length: int) -> float:
        nodes, times = self._nodes, self._times
        if len(nodes) == 1:
            return times[0]
        right = min(max(bisect.bisect_left(nodes, length), 1), len(nodes) - 1)
        slope = (times[right] - times[right - 1]) / (nodes[right] - nodes[right - 1])
        return max(times[right - 1] + slope * (length - nodes[right - 1]), 0.0)
