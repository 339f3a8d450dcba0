"""Predictions of a whole grid, several at a time, each in a process of its own.

On a machine with a GPU tracing makes a CUDA context; in processes that are gone before the first case runs, it takes
nothing away from the device that is measured.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from advisor.costmodel.validation.case import Case
from advisor.costmodel.validation.prediction import Prepared, Setting, draft, prepare
from advisor.measurement.isolation import isolated

MOST_WORKERS = 8
"""Tracing processes at a time: each holds about half a gigabyte."""
PREDICTION_LIMIT_S = 300.0

Predict = Callable[[Case, Setting], Prepared]


def forecasts(
    cases: Sequence[Case],
    setting: Setting,
    *,
    workers: int,
    deadline_s: float | None = None,
    predict: Predict | None = None,
) -> Iterator[tuple[Case, Prepared]]:
    """Prepare cases, in the order in which they get ready.

    Args:
        cases: Of the grid, the first needed first.
        setting: Where they will run.
        workers: Processes at a time.
        deadline_s: Nothing is begun after this moment of ``time.monotonic``; the rest is left out.
        predict: Prepares one case; in a process of its own when not given.
    """
    prepare_one = predict or _in_a_process
    waiting: queue.SimpleQueue[Case] = queue.SimpleQueue()
    ready: queue.SimpleQueue[tuple[Case, Prepared] | None] = queue.SimpleQueue()
    for case in cases:
        waiting.put(case)
    stopped = threading.Event()

    def work() -> None:
        while not stopped.is_set() and (deadline_s is None or time.monotonic() < deadline_s):
            try:
                case = waiting.get_nowait()
            except queue.Empty:
                break
            ready.put((case, prepare_one(case, setting)))
        ready.put(None)

    count = max(1, min(workers, MOST_WORKERS, len(cases)))
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


def _in_a_process(case: Case, setting: Setting) -> Prepared:
    try:
        result = isolated(prepare, case, setting, timeout_s=PREDICTION_LIMIT_S)
    except OSError as failure:
        return Prepared(draft(case, setting, "failed", f"the predicting process could not start: {failure}"), False)
    if result.value is not None:
        return result.value
    return Prepared(draft(case, setting, "failed", f"the prediction ended with {result.reason}"), False)
