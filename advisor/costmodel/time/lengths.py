"""How long the padded micro-batches of a data set are: the distribution of the longest of B random rows."""

from __future__ import annotations

import math
from dataclasses import dataclass

from advisor.core.data import DataProfile
from advisor.core.plan import ExecutionPlan

PAD_TO_MULTIPLE = 8
"""What the collator rounds the longest row of a batch up to."""
GRID = 64
"""Equal-probability cells of the distribution: its mean is then off by far less than a multiple of eight tokens."""


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


def padded_lengths(
    data: DataProfile, rows: int, *, max_seq_length: int, padded: bool = True, multiple: int = PAD_TO_MULTIPLE
) -> PaddedLengths:
    """Distribution of the padded length of a micro-batch of ``rows`` random rows.

    The longest of B independent rows has the distribution function F(x)^B, so its u-quantile is the rows'
    u^(1/B)-quantile; it is then rounded up to what the collator pads to and cut at ``max_seq_length``.

    Args:
        data: Measured token lengths.
        rows: Micro-batch size B.
        max_seq_length: Where rows are cut.
        padded: False when all rows are equally long (blocks of text).
        multiple: What the collator rounds up to.
    """
    if not padded:
        return PaddedLengths((min(data.token_length_quantiles[-1], max_seq_length),), (1.0,))
    counts: dict[int, int] = {}
    for cell in range(GRID):
        longest = row_quantile(data, ((cell + 0.5) / GRID) ** (1 / rows))
        length = min(math.ceil(longest / multiple) * multiple, max_seq_length)
        counts[length] = counts.get(length, 0) + 1
    lengths = tuple(sorted(counts))
    return PaddedLengths(lengths, tuple(counts[length] / GRID for length in lengths))


def micro_batch_lengths(data: DataProfile, execution: ExecutionPlan) -> PaddedLengths:
    """The same for the training micro-batches of a plan."""
    return padded_lengths(
        data, execution.micro_batch_size, max_seq_length=execution.max_seq_length, padded=execution.padded
    )


def row_quantile(data: DataProfile, probability: float) -> float:
    """Token length below which ``probability`` of the rows lie, linear between the stored quantiles."""
    quantiles = data.token_length_quantiles
    position = min(max(probability, 0.0), 1.0) * (len(quantiles) - 1)
    below = int(position)
    if below + 1 >= len(quantiles):
        return float(quantiles[-1])
    return quantiles[below] + (position - below) * (quantiles[below + 1] - quantiles[below])
