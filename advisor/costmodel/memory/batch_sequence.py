"""Which batches a run sees, in an order that is hard on the allocator: lengths change from batch to batch.

Segments that one batch left behind serve the next one of another length badly, so what is reserved at the longest batch
depends on what came before. A few steps stand for a whole run: longest first (some collators sort), then shorter ones
with an evaluation between them, and the longest again.
"""

from __future__ import annotations

from dataclasses import dataclass

from advisor.core.data import DataProfile, padded_length
from advisor.core.plan import ExecutionPlan
from advisor.costmodel.time.lengths import micro_batch_lengths
from advisor.tracing.symbolic import TraceShape

QUANTILES = (0.5, 0.1, 0.9)
"""Of the micro-batches' lengths: the batches between the first and the last longest one."""
DEFAULT_SHARES = (0.5, 0.25, 0.75)
"""The same without data, as shares of the longest: rows of random length between 0 and the longest have these
quartiles."""
EVALUATION_AFTER = 2
"""Training steps before the evaluation pass; the rest comes after it, as in a run of several epochs."""


@dataclass(frozen=True)
class RunShapes:
    """Shapes of a run's batches.

    Attributes:
        training: The longest training batch.
        evaluation: The longest evaluation batch; ``None`` in a run without evaluation.
        earlier_lengths: Lengths of training batches between the first and the last longest one, in order.
    """

    training: TraceShape
    evaluation: TraceShape | None
    earlier_lengths: tuple[int, ...] = ()

    def steps(self) -> list[tuple[str, TraceShape]]:
        """``("training" | "evaluation", shape)`` in the order of the run."""
        rows, _, rank = self.training
        lengths = [self.training, *((rows, length, rank) for length in self.earlier_lengths), self.training]
        steps = [("training", shape) for shape in lengths]
        evaluations = [] if self.evaluation is None else [("evaluation", self.evaluation)]
        return [*steps[:EVALUATION_AFTER], *evaluations, *steps[EVALUATION_AFTER:]]


def run_shapes(
    execution: ExecutionPlan,
    rank: int,
    data: DataProfile | None,
    *,
    same_length: bool = False,
    evaluation: bool = True,
) -> RunShapes:
    """Shapes of one configuration's run.

    Args:
        execution: Batch sizes, longest row, and whether rows are padded at all.
        rank: Symbolic rank of the method.
        data: Measured lengths; a stated default without them.
        same_length: All batches are as long as the longest, as in a measurement of one shape.
        evaluation: Whether the run evaluates.
    """
    longest = _padded(execution.max_seq_length)
    lengths: tuple[int, ...]
    if same_length or not execution.padded:
        lengths = ()
    elif data is not None:
        distribution = micro_batch_lengths(data, execution)
        lengths = tuple(_padded(distribution.quantile(share)) for share in QUANTILES)
    else:
        lengths = tuple(_padded(round(share * longest)) for share in DEFAULT_SHARES)
    return RunShapes(
        training=(execution.micro_batch_size, longest, rank),
        evaluation=(execution.evaluation_batch_size, longest, rank) if evaluation else None,
        earlier_lengths=tuple(length for length in lengths if length < longest),
    )


def _padded(length: int) -> int:
    return padded_length(max(1, length))
