"""What operators take inside real steps: the profiler's events laid on the traced operators.

Timed alone an operator finds warm caches and mapped memory; the same product of MiniLM's feed-forward layer took 1.3 to
2 times as long inside its step. So a step that was measured tells the class table more than its operators' replays.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from advisor.costmodel.calibration.alignment import align, outermost
from advisor.costmodel.calibration.record import ReplayPoint, StepPoint, Work
from advisor.costmodel.trace.ops import TracedOp, class_key

if TYPE_CHECKING:
    from advisor.measurement.operator_profile import OperatorProfile


def work_of(operators: Iterable[TracedOp]) -> Work:
    """Operators as ``(key, flops, moved_bytes, count)``, equal calls together."""
    counts: dict[tuple[str, int, int], int] = defaultdict(int)
    for op in operators:
        counts[class_key(op), op.flops, op.moved_bytes] += op.count
    return tuple((key, flops, moved, count) for (key, flops, moved), count in counts.items())


def work_seconds(operators: Sequence[TracedOp], profile: OperatorProfile | None, usual_s: float) -> tuple[float, ...]:
    """Mean seconds of one call of every entry of ``work_of``; 0 for those that the profiler did not see.

    Args:
        operators: Of the profiled stretch, in the order of the trace.
        profile: Of it; nothing was profiled when ``None``.
        usual_s: What the stretch takes without the profiler. The times are scaled to it, because one step may be
            slower than most.
    """
    if profile is None or profile.seconds <= 0:
        return ()
    events = outermost(profile.events, {op.base_name for op in operators})
    found: dict[tuple[str, int, int], list[int]] = {entry[:3]: [] for entry in work_of(operators)}
    for op, index in zip(operators, align(operators, events), strict=True):
        if index is not None:
            found[class_key(op), op.flops, op.moved_bytes].append(events[index].duration_ns)
    scale = usual_s / profile.seconds / 1e9
    return tuple(sum(times) / len(times) * scale if times else 0.0 for times in found.values())


def calls_in_steps(points: Iterable[StepPoint]) -> list[ReplayPoint]:
    """The profiled calls of measured steps and evaluation passes, as the class table takes them."""
    return [
        ReplayPoint(key.rpartition("/")[2], key, flops, moved, seconds, 0.0, count)
        for point in points
        for work, times in ((point.work, point.work_s), (point.evaluation_work, point.evaluation_work_s))
        for (key, flops, moved, count), seconds in zip(work, times, strict=False)
        if seconds > 0
    ]
