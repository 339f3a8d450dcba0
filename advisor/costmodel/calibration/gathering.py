"""What a calibration gathers, and the replay of distinct calls in isolated processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from advisor.core.device import DeviceProfile
from advisor.core.errors import InterruptedByUser
from advisor.core.model import ModelSpec
from advisor.costmodel.calibration.agenda import Agenda
from advisor.costmodel.calibration.ledger import Ledger
from advisor.costmodel.calibration.replay import ReplayTask, replay_all
from advisor.costmodel.trace.ops import TracedOp, class_key

Progress = Callable[[str, float], None]
"""Called with what is being done and the share that is done, 0 to 1."""

LEAST_REPLAY_S = 5.0
"""For replays where measuring steps has used up the time."""
MAX_CRASHES = 3
"""Replays that may kill their process before the rest is given up."""
STEP_PHASES = ("forward", "backward", "optimizer")


@dataclass
class Gathered:
    """Work so far; turned into a record also when the work is interrupted.

    Attributes:
        subjects: Models to calibrate with, one after the other.
        number: Which of them it is now.
        ledger: What was known before, and where new points are kept.
        patience: How much longer than usual a process may take on this machine.
    """

    device: DeviceProfile
    subjects: tuple[ModelSpec, ...]
    report: Progress
    ledger: Ledger
    number: int = 0
    patience: float = 1.0
    started_s: float = field(default_factory=time.perf_counter)
    notes: list[str] = field(default_factory=list)

    @property
    def model(self) -> ModelSpec:
        """The one at work."""
        return self.subjects[self.number]

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.perf_counter() - self.started_s

    def share(self, done: float, of: int) -> float:
        """Of all the work when ``done`` of the present model's ``of`` parts are."""
        return (self.number + done / max(of, 1)) / len(self.subjects)


def distinct_tasks(operators: list[TracedOp]) -> list[ReplayTask]:
    """One task per distinct call, in the order in which to replay them."""
    counts: dict[str, int] = {}
    examples: dict[str, TracedOp] = {}
    for op in operators:
        counts[op.signature] = counts.get(op.signature, 0) + 1
        examples.setdefault(op.signature, op)
    tasks = [
        ReplayTask(signature, op.name, class_key(op), op.flops, op.moved_bytes, counts[signature])
        for signature, op in examples.items()
        if signature
    ]
    return _interleaved(tasks)


def _interleaved(tasks: list[ReplayTask]) -> list[ReplayTask]:
    """Operators take turns, so that a budget that ends early starves none: each one's middle call, its largest, its
    smallest.
    """
    by_key: dict[str, list[ReplayTask]] = {}
    for task in sorted(tasks, key=lambda t: -(t.flops + 8 * t.moved_bytes)):
        by_key.setdefault(task.key, []).append(task)
    turns: list[tuple[int, str, ReplayTask]] = []
    for key, members in by_key.items():
        first = list(dict.fromkeys((len(members) // 2, 0, len(members) - 1)))
        order = [*first, *(index for index in range(len(members)) if index not in first)]
        turns += [(turn, key, members[index]) for turn, index in enumerate(order)]
    return [task for _, _, task in sorted(turns, key=lambda entry: entry[:2])]


def replay(tasks: list[ReplayTask], agenda: Agenda, state: Gathered) -> None:
    """Replay in isolated processes; one that a call kills is started again behind that call."""
    from advisor.measurement import isolated

    left_s = max(agenda.end_s * state.patience - state.seconds, LEAST_REPLAY_S)
    first, crashes, deadline = 0, 0, time.perf_counter() + min(agenda.replay_s, left_s)
    while first < len(tasks) and crashes < MAX_CRASHES:
        seen = _Seen(state, tasks, first)
        result = isolated(
            replay_all,
            tasks[first:],
            device=state.device.type,
            num_threads=state.device.num_threads,
            budget_s=max(deadline - time.perf_counter(), 0.0),
            per_call_s=agenda.call_s,
            on_event=seen,
            timeout_s=(agenda.replay_s * 3 + 60) * state.patience,
        )
        if result.outcome == "interrupted":
            raise InterruptedByUser("replaying was interrupted")
        if result.outcome == "completed":
            return
        crashes += 1
        state.notes.append(f"replaying {tasks[first + seen.last].name} ended its process: {result.reason}")
        state.ledger.skip_call(tasks[first + seen.last])
        first += seen.last + 1


class _Seen:
    """Collects the events of a replaying process."""

    def __init__(self, state: Gathered, tasks: list[ReplayTask], first: int) -> None:
        self.last = 0
        self._state, self._tasks, self._first = state, tasks, first

    def __call__(self, event: dict[str, Any]) -> None:
        kind = event["kind"]
        if kind == "begin":
            self.last = event["index"]
            return
        number = self._first + event["index"]
        if kind == "point":
            if note := self._state.ledger.keep_replay(self._tasks[number], event["point"]):
                self._state.notes.append(note)
            done = (number + 1) / len(self._tasks)
            self._state.report(f"timing operators: {event['point'].name}", self._state.share(0.9 + 0.1 * done, 1))
        elif kind == "skipped":
            self._state.ledger.skip_call(self._tasks[number])
            self._state.notes.append(f"not replayed: {event['reason']}")
