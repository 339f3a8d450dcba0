"""Which operator of a traced step each event of a profiled one is, so that real steps show how long operators take.

Both are the same step, so they agree in order; they differ in a few calls that only one of them sees (a mask that the
trace assumes, an accumulation that the engine does in place). Names that occur equally often on both sides are paired
in order; between two such pairs the same is tried again for the other names.
"""

from __future__ import annotations

import bisect
import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from advisor.core.coefficients import OperatorCounts, ReplayPoint, StepPoint
from advisor.tracing.ops import TracedOp, class_key

if TYPE_CHECKING:
    from advisor.measurement.operator_profile import OperatorEvent, OperatorProfile

Span = tuple[int, int]


def align_events(operators: Sequence[TracedOp], events: Sequence[OperatorEvent]) -> list[int | None]:
    """For every traced operator the index of its event, or ``None``."""
    traced = [op.base_name for op in operators]
    seen = [event.base_name for event in events]
    found: list[int | None] = [None] * len(traced)
    anchors = _equally_often(traced, seen, (0, len(traced)), (0, len(seen)))
    kept = _ascending(anchors)
    corners = [(-1, -1), *kept, (len(traced), len(seen))]
    for (op, event), (next_op, next_event) in itertools.pairwise(corners):
        if op >= 0:
            found[op] = event
        for inner_op, inner_event in _equally_often(traced, seen, (op + 1, next_op), (event + 1, next_event)):
            found[inner_op] = inner_event
    return found


def outermost(events: Sequence[OperatorEvent], names: set[str]) -> list[OperatorEvent]:
    """Events with one of these names that lie in no other such event of their thread.

    The profiler also sees what an operator calls in turn; that belongs to the operator.
    """
    ends: dict[int, int] = defaultdict(int)
    found = []
    for event in sorted(events, key=lambda event: (event.start_ns, -event.duration_ns)):
        if event.base_name in names and event.start_ns >= ends[event.thread]:
            found.append(event)
            ends[event.thread] = event.start_ns + event.duration_ns
    return found


def _equally_often(traced: list[str], seen: list[str], ops: Span, events: Span) -> list[tuple[int, int]]:
    """Pairs of the names that both stretches hold equally often, each name in order."""
    left, right = _positions(traced, ops), _positions(seen, events)
    return [
        pair
        for name, indices in left.items()
        if len(indices) == len(right.get(name, ()))
        for pair in zip(indices, right[name], strict=True)
    ]


def _positions(names: list[str], span: Span) -> dict[str, list[int]]:
    positions: dict[str, list[int]] = defaultdict(list)
    for index in range(*span):
        positions[names[index]].append(index)
    return positions


def _ascending(pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The most pairs that run in the same order on both sides (longest increasing subsequence, by patience sorting)."""
    ordered = sorted(pairs)
    tops: list[int] = []
    top_pairs: list[int] = []
    before: list[int] = []
    for index, (_, event) in enumerate(ordered):
        pile = bisect.bisect_left(tops, event)
        before.append(top_pairs[pile - 1] if pile else -1)
        tops[pile : pile + 1] = [event]
        top_pairs[pile : pile + 1] = [index]
    chain: list[tuple[int, int]] = []
    index = top_pairs[-1] if top_pairs else -1
    while index >= 0:
        chain.append(ordered[index])
        index = before[index]
    return chain[::-1]


# --------------------
# What operators take inside real steps: the profiler's events laid on the traced operators.
#
# Timed alone an operator finds warm caches and mapped memory; the same product of MiniLM's feed-forward layer took
# 1.3 to
# 2 times as long inside its step. So a measured step informs the class table better than replays of its operators.


def work_of(operators: Iterable[TracedOp]) -> OperatorCounts:
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
    for op, index in zip(operators, align_events(operators, events), strict=True):
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
