"""A second process that traces from the other end of the list while this one plans: two cores, half the wait."""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from advisor.core.budget import Budget
from advisor.core.data import DataProfile
from advisor.core.device import DeviceProfile
from advisor.core.errors import InputError
from advisor.core.model import ModelSpec
from advisor.core.strategy import StrategyConfig
from advisor.hardware.host import usable_cpus

if TYPE_CHECKING:
    from advisor.costmodel.model import CostModel

CORES_WANTED = 2


@contextlib.contextmanager
def tracing_companion(cost_model: CostModel, function: Callable[..., None], *args: Any) -> Iterator[None]:
    """Call ``function(*args)`` in a process of its own from the first missing trace on, for as long as the block runs.

    Both processes share the traces on disk, so what the companion has traced is only read here. It is killed when the
    block ends; its failures are nobody's, because whatever it has not traced is traced here.

    Args:
        cost_model: Its first trace that is not on disk starts the companion.
        function: Importable by name.
        *args: Picklable.
    """
    companion = _Companion(function, args)
    if len(usable_cpus()) >= CORES_WANTED:
        cost_model.traces.before_first_trace = companion.start
    try:
        yield
    finally:
        companion.stop()


def plan_backwards(
    model: ModelSpec,
    data: DataProfile,
    device: DeviceProfile,
    budget: Budget,
    effective_batch_size: int,
    methods: Sequence[str | StrategyConfig] | None,
) -> None:
    """Solve the candidates of ``recommend_plans`` from the last to the first, for the traces that this leaves."""
    from advisor.pipeline.predicting import cost_model_for
    from advisor.search.planner.candidates import candidates
    from advisor.search.planner.evaluator import Evaluator
    from advisor.search.planner.recommend import solve_candidate
    from advisor.search.planner.solver import Solver

    cost_model = cost_model_for(device)
    found, _ = candidates(model, methods)
    solver = Solver(Evaluator(model, data, cost_model, budget, effective_batch_size))
    for candidate in reversed(found):
        with contextlib.suppress(InputError):
            solve_candidate(solver, candidate)


class _Companion:
    """The process. It reads its task from its standard input and dies with this one."""

    def __init__(self, function: Callable[..., None], args: tuple[Any, ...]) -> None:
        self._task = pickle.dumps((function, args))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Return at once; what cannot be started is done without."""
        command = [sys.executable, "-c", f"from {__name__} import serve; serve()"]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
        with contextlib.suppress(OSError):
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )
            if self._process.stdin is not None:
                self._process.stdin.write(self._task)
                self._process.stdin.close()

    def stop(self) -> None:
        """Kill it, whatever it is doing; traces are written whole or not at all."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def serve() -> None:
    """What the companion runs."""
    from advisor.measurement.child import die_with_parent

    die_with_parent()
    function, args = pickle.load(sys.stdin.buffer)
    function(*args)
