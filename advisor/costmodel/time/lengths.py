"""How long the padded micro-batches of a data set are: of random rows, of rows grouped by length, of sorted rows."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

from advisor.core.data import PAD_MULTIPLE, DataProfile
from advisor.core.plan import ExecutionPlan
from advisor.costmodel.time.step import StepTime

GRID = 1000
"""Equal-probability cells that quantiles are cut into where no counts were kept."""
POOL_BATCHES, LEAST_POOLS = 50, 4
"""The sampler that groups by length sorts pools of 50 effective batches of random rows, fewer where that would leave
less than four pools (``transformers.trainer_pt_utils.get_length_grouped_indices``)."""


@dataclass(frozen=True)
class PaddedLengths:
    """Padded lengths of micro-batches: ``lengths[i]`` has probability ``weights[i]``; sorted, distinct."""

    lengths: tuple[int, ...]
    weights: tuple[float, ...]

    @property
    def mean(self) -> float:
        return sum(length * weight for length, weight in zip(self.lengths, self.weights, strict=True))

    def quantile(self, probability: float) -> int:
        """Smallest length whose cumulative probability reaches ``probability``."""
        reached = 0.0
        for length, weight in zip(self.lengths, self.weights, strict=True):
            reached += weight
            if reached >= probability - 1e-12:
                return length
        return self.lengths[-1]


def micro_batch_lengths(data: DataProfile, execution: ExecutionPlan) -> PaddedLengths:
    """Distribution of the padded length of a plan's training micro-batches."""
    if not execution.padded:
        return _equal(data, execution.max_seq_length)
    if execution.group_by_length:
        pool = pool_rows(data.train_rows, execution.effective_batch_size)
        return grouped_lengths(data, execution.micro_batch_size, pool=pool, max_seq_length=execution.max_seq_length)
    return padded_lengths(data, execution.micro_batch_size, max_seq_length=execution.max_seq_length)


def evaluation_lengths(data: DataProfile, execution: ExecutionPlan) -> PaddedLengths:
    """The same for the evaluation batches; with grouping, all held-out rows come sorted, the longest first."""
    rows, limit = max(1, min(execution.evaluation_batch_size, data.eval_rows)), execution.max_seq_length
    if execution.padded and execution.group_by_length:
        return sorted_lengths(data, rows, of=data.eval_rows, max_seq_length=limit)
    return padded_lengths(data, rows, max_seq_length=limit, padded=execution.padded, of=data.eval_rows)


def padded_lengths(
    data: DataProfile,
    rows: int,
    *,
    max_seq_length: int,
    padded: bool = True,
    multiple: int = PAD_MULTIPLE,
    of: int | None = None,
) -> PaddedLengths:
    """Distribution of the padded length of a micro-batch of ``rows`` random rows.

    Rows are drawn without replacement, so of N rows of which n are no longer than x, the longest of B is no longer than
    x with probability C(n, B) / C(N, B).
    """
    if not padded:
        return _equal(data, max_seq_length)
    lengths, shares = row_lengths(data, max_seq_length, multiple)
    population = max(data.train_rows if of is None else of, rows)
    return _from_cumulative(lengths, [_all_below(share, rows, population) for share in shares])


def grouped_lengths(data: DataProfile, rows: int, *, pool: int, max_seq_length: int) -> PaddedLengths:
    """The same for batches cut from pools of ``pool`` random rows that are sorted by length.

    The longest row of the k-th batch of a pool of M rows is the one with kB rows before it. It is no longer than x
    when at most kB of the pool's rows are longer: hypergeometric, by its normal approximation (variance
    M q (1 - q) (N - M) / (N - 1) for a share q of longer rows), and exactly for the first batch.
    """
    lengths, shares = row_lengths(data, max_seq_length, PAD_MULTIPLE)
    return _grouped(lengths, shares, rows, pool, max(data.train_rows, 1))


@lru_cache(maxsize=256)
def _grouped(
    lengths: tuple[int, ...], shares: tuple[float, ...], rows: int, pool: int, population: int
) -> PaddedLengths:
    total = [0.0] * len(lengths)
    pools, rest = divmod(population, pool)
    for size, count in ((pool, pools), (rest, 1 if rest else 0)):
        for before in range(0, size if count else 0, rows):
            weight = count * min(rows, size - before) / population
            for cell, share in enumerate(shares):
                total[cell] += weight * _at_most_longer(before, 1 - share, size, population)
    return _from_cumulative(lengths, total)


def sorted_lengths(data: DataProfile, rows: int, *, of: int, max_seq_length: int) -> PaddedLengths:
    """The same for ``of`` rows that are all sorted by length before they are cut into batches, the longest first."""
    lengths, shares = row_lengths(data, max_seq_length, PAD_MULTIPLE)
    weights = [0.0] * len(lengths)
    for before in range(0, max(of, 1), rows):
        share_not_longer = 1 - (before + 0.5) / max(of, 1)
        cell = next((i for i, share in enumerate(shares) if share >= share_not_longer), len(shares) - 1)
        weights[cell] += min(rows, max(of, 1) - before) / max(of, 1)
    kept = [(length, weight) for length, weight in zip(lengths, weights, strict=True) if weight > 0]
    return PaddedLengths(tuple(length for length, _ in kept), tuple(weight for _, weight in kept))


def pool_rows(rows: int, batch_rows: int) -> int:
    """Rows that are sorted by length together."""
    return max(1, min(rows // (batch_rows * LEAST_POOLS), POOL_BATCHES)) * batch_rows


def row_quantile(data: DataProfile, probability: float) -> float:
    """Token length below which ``probability`` of the rows lie, linear between the stored quantiles."""
    quantiles = data.token_length_quantiles
    position = min(max(probability, 0.0), 1.0) * (len(quantiles) - 1)
    below = int(position)
    if below + 1 >= len(quantiles):
        return float(quantiles[-1])
    return quantiles[below] + (position - below) * (quantiles[below + 1] - quantiles[below])


def row_lengths(
    data: DataProfile, max_seq_length: int, multiple: int = PAD_MULTIPLE
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Lengths of single rows after rounding and cutting, and the share of rows that are no longer than each."""
    counts = data.length_counts if multiple == PAD_MULTIPLE else ()
    return _row_lengths(data.token_length_quantiles, counts, max_seq_length, multiple)


@lru_cache(maxsize=64)
def _row_lengths(
    quantiles: tuple[int, ...], counts: tuple[int, ...], max_seq_length: int, multiple: int
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    rows: dict[int, float] = {}
    if sum(counts) > 0:
        found = [((cell + 1) * multiple, count) for cell, count in enumerate(counts) if count]
    else:
        profile = DataProfile(0, 0, quantiles, quantiles[-1], max_seq_length, 0)
        drawn = [row_quantile(profile, (cell + 0.5) / GRID) for cell in range(GRID)]
        found = [(math.ceil(tokens / multiple) * multiple, 1) for tokens in drawn]
    for length, count in found:
        cut = max(1, min(length, max_seq_length))
        rows[cut] = rows.get(cut, 0.0) + count
    total, reached = sum(rows.values()), 0.0
    shares = []
    for length in sorted(rows):
        reached += rows[length]
        shares.append(reached / total)
    return tuple(sorted(rows)), tuple(shares)


def _equal(data: DataProfile, max_seq_length: int) -> PaddedLengths:
    return PaddedLengths((min(data.token_length_quantiles[-1], max_seq_length),), (1.0,))


def _from_cumulative(lengths: tuple[int, ...], cumulative: list[float]) -> PaddedLengths:
    weights = [max(0.0, here - before) for before, here in zip([0.0, *cumulative], cumulative, strict=False)]
    kept = [(length, weight) for length, weight in zip(lengths, weights, strict=True) if weight > 1e-9]
    total = sum(weight for _, weight in kept)
    return PaddedLengths(tuple(length for length, _ in kept), tuple(weight / total for _, weight in kept))


def _all_below(share: float, drawn: int, population: int) -> float:
    """Chance that ``drawn`` rows of ``population`` all belong to the ``share`` that is short enough."""
    short = share * population
    if drawn >= population:
        return 1.0 if share >= 1 else 0.0
    if short - drawn < 1e-9:
        return 0.0
    ways = math.lgamma(short + 1) - math.lgamma(short - drawn + 1)
    return math.exp(ways - math.lgamma(population + 1) + math.lgamma(population - drawn + 1))


def _at_most_longer(most: int, share: float, drawn: int, population: int) -> float:
    """Chance that at most ``most`` of ``drawn`` rows belong to the ``share`` of longer ones."""
    if share <= 0:
        return 1.0
    if most == 0:
        return _all_below(1 - share, drawn, population)
    unseen = (population - drawn) / max(population - 1, 1)
    sigma = math.sqrt(drawn * share * (1 - share) * unseen)
    if sigma == 0:
        return 1.0 if drawn * share <= most else 0.0
    return NormalDist().cdf((most + 0.5 - drawn * share) / sigma)


# --------------------
# Step time over padded length: asked at a few lengths, linear between them.

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
