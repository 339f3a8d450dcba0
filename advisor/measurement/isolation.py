"""Run a function in a fresh process that dies with its parent and whose end is always a typed outcome.

The process is forked from a server (the standard library's ``forkserver``) that has only imported: it starts in
milliseconds, with no model, no thread pool and no CUDA context of anybody else in it. Three things end it when its
parent goes, whatever the parent died of: the kernel kills it when the server goes (``PR_SET_PDEATHSIG``), a thread
kills it when the parent's end of a pipe closes, and the server leaves when nobody holds its own pipe any more.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Generic, TypeVar

from advisor.core.errors import DEBUG_VARIABLE, AdvisorError, InterruptedByUser, RunFailed
from advisor.core.events import RawListener
from advisor.core.run import ProcessOutcome
from advisor.core.units import format_duration
from advisor.measurement import child, server

T = TypeVar("T")

EXIT_WAIT_S = 5.0
"""How long a process that has delivered its result may take to leave before it is killed."""


@dataclass(frozen=True)
class Result(Generic[T]):
    """How an isolated call ended.

    Attributes:
        outcome: ``"completed"``, or why there is no value.
        value: What the function returned.
        reason: One sentence when it did not complete.
        error: The expected failure that the function raised, to be raised again here.
        wall_s: From the request to the process's end.
    """

    outcome: ProcessOutcome
    value: T | None = None
    reason: str = ""
    error: AdvisorError | None = None
    wall_s: float = 0.0

    def unwrap(self) -> T:
        """The value.

        Raises:
            AdvisorError: what the function raised.
            InterruptedByUser: Ctrl-C.
            RunFailed: out of memory, out of time, or crashed.
        """
        if self.error is not None:
            raise self.error
        if self.outcome == "interrupted":
            raise InterruptedByUser(self.reason)
        if self.outcome != "completed":
            raise RunFailed(
                f"the process ended with {self.outcome.replace('_', ' ')}: {self.reason}", fix=ADVICE[self.outcome]
            )
        return self.value  # type: ignore[return-value]


ADVICE: dict[str, str] = {
    "out_of_memory": "plan with a smaller --memory budget, or close other programs, so that a smaller micro-batch, "
    "checkpointing or a cheaper method is chosen",
    "over_time": "allow more --time, or resume the run",
    "failed": f"the same command with {DEBUG_VARIABLE}=1 in front of it shows the details",
    "interrupted": "resume the run",
}


def isolated(
    function: Callable[..., T],
    *args: Any,
    on_event: RawListener | None = None,
    timeout_s: float | None = None,
    log_path: Path | None = None,
    **kwargs: Any,
) -> Result[T]:
    """Call ``function(*args, **kwargs)`` in a process of its own and wait for it.

    Ctrl-C (and SIGTERM) here is passed on as one SIGINT, which the function may use to finish cleanly; a second one
    kills the process. The terminal's own Ctrl-C does not reach it, because it is in a session of its own.

    Args:
        function: Importable by name.
        *args: Its arguments; they and the result must be picklable.
        on_event: Receives event dictionaries in this process; the function is then called with an ``on_event`` of its
            own that sends them.
        timeout_s: The process is killed after this long.
        log_path: Where its standard output and error go (appended); by default nowhere.
        **kwargs: Its keyword arguments.
    """
    started_s = time.perf_counter()
    context = server.context()
    receiver, sender = context.Pipe(duplex=False)
    lifeline_reader, lifeline_writer = context.Pipe(duplex=False)
    request = child.Request(function, args, kwargs, sends_events=on_event is not None, log_path=log_path)
    process = context.Process(target=child.main, args=(request, sender, lifeline_reader), daemon=True)
    server.start(process)
    sender.close()
    lifeline_reader.close()
    watch = _Watch(process, receiver, on_event, started_s + timeout_s if timeout_s is not None else None)
    try:
        with _forwarding_interrupts(watch):
            watch.until_the_end()
    finally:
        exit_code = watch.end_process()
        receiver.close()
        lifeline_writer.close()
    return watch.result(exit_code, time.perf_counter() - started_s, timeout_s)


class _Watch:
    """Reads a child's messages until it is gone."""

    def __init__(
        self, process: Any, receiver: Connection, on_event: RawListener | None, deadline_s: float | None
    ) -> None:
        self.process = process
        self.interrupts = 0
        self._ready = False
        self._receiver = receiver
        self._on_event = on_event
        self._deadline_s = deadline_s
        self._timed_out = False
        self._answer: child.Answer | None = None

    def interrupt(self) -> None:
        """First: ask. Second, or before the function has begun: kill."""
        self.interrupts += 1
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGINT if self._ready and self.interrupts == 1 else signal.SIGKILL)

    def until_the_end(self) -> None:
        while self._answer is None:
            remaining_s = None if self._deadline_s is None else self._deadline_s - time.perf_counter()
            if remaining_s is not None and remaining_s <= 0:
                self._timed_out = True
                self.process.kill()
                return
            ready = multiprocessing.connection.wait([self._receiver, self.process.sentinel], remaining_s)
            if self._receiver in ready:
                if not self._receive():
                    return
            elif ready:
                return

    def _receive(self) -> bool:
        try:
            message = self._receiver.recv()
        except (EOFError, OSError):
            return False
        if isinstance(message, child.Ready):
            self._ready = True
        elif isinstance(message, child.Answer):
            self._answer = message
        elif self._on_event is not None:
            self._on_event(message)
        return True

    def end_process(self) -> int | None:
        """Wait for a process that has answered, kill one that has not; returns its exit code."""
        if self._answer is not None:
            self.process.join(EXIT_WAIT_S)
        elif not self.process.sentinel or not multiprocessing.connection.wait([self.process.sentinel], 0):
            self.process.kill()
        if self.process.is_alive():
            self.process.kill()
        self.process.join()
        code: int | None = self.process.exitcode
        self.process.close()
        return code

    def result(self, exit_code: int | None, wall_s: float, timeout_s: float | None) -> Result[Any]:
        answer = self._answer
        if answer is not None:
            return Result(answer.outcome, answer.value, answer.reason, answer.error, wall_s)
        if self.interrupts:
            return Result("interrupted", reason="stopped at once by Ctrl-C", wall_s=wall_s)
        if self._timed_out:
            return Result(
                "over_time", reason=f"it did not end within {format_duration(timeout_s or 0.0)}", wall_s=wall_s
            )
        outcome, reason = _meaning_of_exit(exit_code)
        return Result(outcome, reason=reason, wall_s=wall_s)


def _meaning_of_exit(code: int | None) -> tuple[ProcessOutcome, str]:
    """What it means that a process ended without an answer.

    Nobody but the kernel's out-of-memory killer (or an administrator) sends SIGKILL to it; 137 is how shells and
    containers report the same.
    """
    if code in (-signal.SIGKILL, 128 + signal.SIGKILL):
        return "out_of_memory", "it was killed by the system, most likely because the machine ran out of memory"
    if code is not None and code < 0:
        return "failed", f"it was ended by {signal.Signals(-code).name}"
    return "failed", f"it left with exit code {code} and without an answer"


@contextlib.contextmanager
def _forwarding_interrupts(watch: _Watch) -> Iterator[None]:
    """Ctrl-C and SIGTERM go to the child instead of raising here. Only the main thread may say so to Python."""

    def forward(signum: int, frame: Any) -> None:
        watch.interrupt()

    try:
        previous = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread: whoever is there handles it
        yield
        return
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
