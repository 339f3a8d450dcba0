"""Predictions of a whole grid, several at a time, each in a process of its own.

On a machine with a GPU tracing makes a CUDA context; in processes that are gone before the first case runs, it takes
nothing away from the device that is measured.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from advisor.experiments.validation.case import Case
from advisor.experiments.validation.prediction import GridDevice, Prepared, draft, prepare_all
from advisor.measurement.isolation import isolated

MOST_WORKERS = 8
"""Tracing processes at a time: each holds about half a gigabyte."""
PREDICTION_LIMIT_S = 300.0

Predict = Callable[[Case, GridDevice], Prepared]


def forecasts(
    cases: Sequence[Case],
    setting: GridDevice,
    *,
    workers: int,
    deadline_s: float | None = None,
    predict: Predict | None = None,
    together: bool = False,
) -> Iterator[tuple[Case, Prepared]]:
    """Prepare cases, in the order in which they get ready.

    Args:
        cases: Of the grid, the first needed first.
        setting: Where they will run.
        workers: Processes at a time.
        deadline_s: Nothing is begun after this moment of ``time.monotonic``; the rest is left out.
        predict: Prepares one case; in a process of its own when not given.
        together: Cases of one model and method share a process: sooner done with all, later with the first.
    """
    waiting: queue.SimpleQueue[list[Case]] = queue.SimpleQueue()
    ready: queue.SimpleQueue[tuple[Case, Prepared] | None] = queue.SimpleQueue()
    batches = _alike(cases) if together else [[case] for case in cases]
    for batch in batches:
        waiting.put(batch)
    stopped = threading.Event()

    def work() -> None:
        while not stopped.is_set() and (deadline_s is None or time.monotonic() < deadline_s):
            try:
                batch = waiting.get_nowait()
            except queue.Empty:
                break
            found = [predict(case, setting) for case in batch] if predict else _in_a_process(batch, setting)
            for answer in zip(batch, found, strict=True):
                ready.put(answer)
        ready.put(None)

    count = max(1, min(workers, MOST_WORKERS, len(batches)))
    for _ in range(count):
        # Daemons: after Ctrl-C nobody waits for them, and their processes die with this one.
        threading.Thread(target=work, daemon=True).start()
    try:
        while count:
            answer = ready.get()
            if answer is None:
                count -= 1
            else:
                yield answer
    finally:
        stopped.set()


def _alike(cases: Sequence[Case]) -> list[list[Case]]:
    """The cases of each model and method."""
    batches: dict[tuple[str, str], list[Case]] = {}
    for case in cases:
        batches.setdefault((case.model, case.method), []).append(case)
    return list(batches.values())


def _in_a_process(cases: list[Case], setting: GridDevice) -> list[Prepared]:
    try:
        result = isolated(prepare_all, cases, setting, timeout_s=PREDICTION_LIMIT_S * len(cases))
    except OSError as failure:
        return _failed(cases, setting, f"the predicting process could not start: {failure}")
    return result.value or _failed(cases, setting, f"the prediction ended with {result.reason}")


def _failed(cases: list[Case], setting: GridDevice, reason: str) -> list[Prepared]:
    return [Prepared(draft(case, setting, "failed", reason), False) for case in cases]
