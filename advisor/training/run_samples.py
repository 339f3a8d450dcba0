"""What a run is sampled on: which rows its steps took, in what time, and what memory was held along the way."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformers import TrainerCallback

from advisor.hardware.backends import backend_on
from advisor.hardware.host_process import resident_bytes

WARM_UP_STEPS = 5
"""Steps that are left out where a run has at least three times as many; of a shorter run it is a third of them."""
SAMPLED_EVERY_S = 1.0
"""Memory is looked at after a step, at most this often."""


def warm_up_steps(steps: int) -> int:
    """How many of a run's first steps count as warm-up."""
    return min(WARM_UP_STEPS, steps // 3)


class FetchedRows:
    """A training data set that remembers how long the rows were that were fetched, in order.

    Batches are made in the training process, so that every fetched row is seen here.
    """

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        self._row_lengths = getattr(dataset, "lengths", None)
        self.fetched_lengths: list[int] = []
        if self._row_lengths is not None:
            self.lengths = self._row_lengths

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Any:
        if self._row_lengths is not None:
            self.fetched_lengths.append(int(self._row_lengths[index]))
        return self._dataset[index]


@dataclass(frozen=True)
class MemorySample:
    """What was held after a step; ``None`` where torch does not count it."""

    step: int
    allocated_bytes: int | None
    reserved_bytes: int | None
    resident_bytes: int


@dataclass(frozen=True)
class Throughput:
    """Rows of some steps, and the time from the beginning of the first to the end of the last of them.

    Attributes:
        steps, rows: How many.
        tokens: Of these rows, without padding; ``None`` where their lengths are not known.
        elapsed_s: Without evaluations and checkpoints in between; with the time between steps.
    """

    steps: int
    rows: int
    tokens: int | None
    elapsed_s: float


class RunSamples(TrainerCallback):
    """Samples the steps of this process.

    Args:
        rows: The training data set.
        effective_batch_size: Rows of a step, but for the last one of an epoch.
        paused_s: Time spent on evaluations and checkpoints so far.
    """

    def __init__(self, rows: FetchedRows, effective_batch_size: int, paused_s: Callable[[], float]) -> None:
        self.memory: list[MemorySample] = []
        self._rows, self._batch, self._paused_s = rows, effective_batch_size, paused_s
        self._began_at_step = self._timed_from_step = self._last_step = 0
        self._start: tuple[float, float] | None = None
        self._end: tuple[float, float] | None = None
        self._sampled_at_s = -math.inf

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._began_at_step = state.global_step
        self._timed_from_step = state.global_step + warm_up_steps(state.max_steps - state.global_step)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._start is None and state.global_step == self._timed_from_step:
            self._start = self._now(args)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._last_step = state.global_step
        if state.global_step >= state.max_steps:
            self._end = self._now(args)
        now_s = time.perf_counter()
        if now_s - self._sampled_at_s >= SAMPLED_EVERY_S or self._end is not None:
            self._sampled_at_s = now_s
            held = backend_on(args.device.type).runtime.held_bytes()
            self.memory.append(MemorySample(state.global_step, *held, resident_bytes()))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._end is None and self._last_step > self._timed_from_step:  # it ended before its last step
            self._end = self._now(args)

    def _now(self, args: Any) -> tuple[float, float]:
        backend_on(args.device.type).runtime.synchronize()
        return time.perf_counter(), self._paused_s()

    @property
    def throughput(self) -> Throughput | None:
        """Of the steps after warm-up; ``None`` when training did not come to its end in this process."""
        if self._start is None or self._end is None:
            return None
        elapsed_s = self._end[0] - self._start[0] - (self._end[1] - self._start[1])
        before, until = (self._rows_until(step) for step in (self._timed_from_step, self._last_step))
        skipped = self._rows_until(self._began_at_step)
        lengths = self._rows.fetched_lengths[before - skipped : until - skipped]
        tokens = sum(lengths) if len(lengths) == until - before else None
        return Throughput(self._last_step - self._timed_from_step, until - before, tokens, elapsed_s)

    def _rows_until(self, step: int) -> int:
        """Rows of the first ``step`` steps: the last step of an epoch takes what is left."""
        rows = len(self._rows)
        epochs, within = divmod(step, math.ceil(rows / self._batch))
        return epochs * rows + min(within * self._batch, rows)
