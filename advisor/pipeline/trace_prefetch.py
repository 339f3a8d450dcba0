"""Traces that planning may need, made by a few other processes while this one plans."""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from advisor.core.errors import InputError
from advisor.core.model import ModelSpec
from advisor.hardware.host import usable_cpus

if TYPE_CHECKING:
    from advisor.costmodel.model import CostModel
    from advisor.search.planner import Candidates, PlanRequest
    from advisor.search.planner.traces import WantedTrace

MOST_PROCESSES = 3
"""Each imports torch and transformers: seconds, and most of a gigabyte."""

_COMMAND = [sys.executable, "-c", f"from {__name__} import serve; serve()"]


@contextlib.contextmanager
def prefetched_traces(request: PlanRequest, cost_model: CostModel, found: Candidates) -> Iterator[None]:
    """Trace ahead what planning may need, from its first missing trace on, for as long as the block runs.

    All processes share the traces on disk: what another one has traced is only read here, and what none has is traced
    here, so answers are the same with and without them. They are killed when the block ends; traces are written whole
    or not at all.

    Args:
        request: What is planned.
        cost_model: Whose first trace that is not on disk starts the processes.
        found: The strategies.
    """
    from advisor.search.planner.traces import wanted_traces

    processes: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        wanted = wanted_traces(request, cost_model.device, found)
        number = min(MOST_PROCESSES, len(usable_cpus()) - 1, len(wanted))
        for index in range(number):
            processes.append(_tracing(cost_model, request.model, wanted[index::number]))

    cost_model.traces.before_first_trace = start
    try:
        yield
    finally:
        cost_model.traces.before_first_trace = None
        for process in processes:
            process.kill()
            process.wait()


def _tracing(cost_model: CostModel, model: ModelSpec, wanted: Sequence[WantedTrace]) -> subprocess.Popen[bytes]:
    """A process that makes these traces, one after another; it reads them from its standard input."""
    store = cost_model.traces
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        _COMMAND,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
    )
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            pickle.dump((store.semantics, store.compute_capability, store.cache_dir, model, wanted), process.stdin)
            process.stdin.close()
    return process


def serve() -> None:
    """What such a process runs."""
    from advisor.measurement.child import die_with_parent

    die_with_parent()
    fill(*pickle.load(sys.stdin.buffer))


def fill(
    semantics: str,
    compute_capability: tuple[int, int] | None,
    cache_dir: Path,
    model: ModelSpec,
    wanted: Sequence[WantedTrace],
) -> None:
    """Make traces that are not on disk yet; what cannot be traced is left to whoever asks for it.

    Args:
        semantics: As in ``TraceStore``.
        compute_capability: Likewise.
        cache_dir: Likewise.
        model: Of all traces.
        wanted: What else decides them.
    """
    from advisor.tracing.trace_store import TraceStore

    store = TraceStore(semantics, compute_capability, cache_dir)
    for strategy, execution in wanted:
        with contextlib.suppress(InputError):
            store.get(model, strategy, execution)
