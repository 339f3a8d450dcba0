"""The inside of an isolated process: dies with its parent, and turns every way of failing into an answer."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from advisor.core.errors import DEBUG_VARIABLE, AdvisorError
from advisor.core.events import RawListener
from advisor.core.run import ProcessOutcome

PR_SET_PDEATHSIG = 1
"""prctl(2), ``linux/prctl.h``: the signal that this process gets when its parent dies."""

NO_MEMORY = ("can't allocate memory", "out of memory", "STATUS_ALLOC_FAILED")
"""What plain ``RuntimeError``s say: torch's CPU allocator, the CUDA runtime, and cuBLAS, cuDNN or cuSOLVER making their
handles."""
TORCH_ADVICE = " If reserved but unallocated memory is large"
"""Begins what torch adds to every out-of-memory message, whatever the cause."""


@dataclass(frozen=True)
class Request:
    """What to call."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    sends_events: bool
    log_path: Path | None


@dataclass(frozen=True)
class Ready:
    """The first message: from here on an interrupt is an answer and no longer a traceback."""


@dataclass(frozen=True)
class Answer:
    """How the call ended; the last message of a process."""

    outcome: ProcessOutcome
    value: Any = None
    reason: str = ""
    error: AdvisorError | None = None


def main(request: Request, sender: Connection, lifeline: Connection) -> None:
    """Entry point of the process."""
    die_with_parent()
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_die_at_end_of, args=(lifeline,), daemon=True).start()
    _redirect_output(request.log_path)
    with contextlib.suppress(BrokenPipeError):
        sender.send(Ready())
    answer = _call(request, sender)
    with contextlib.suppress(BrokenPipeError):
        _send_answer(sender, answer)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # no exit handlers: nothing of the server's is this process's to clean up


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies; if the parent is gone already, leave now."""
    parent = os.getppid()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if parent == 1 or os.getppid() != parent:
        os._exit(1)


def classify(failure: BaseException) -> Answer:
    """An exception as an answer.

    Out of memory is torch's typed error on CUDA, ``MemoryError`` from Python and numpy, and a plain ``RuntimeError``
    from torch's CPU allocator and from CUDA's libraries.
    """
    text = f"{failure}".strip()
    line = text.splitlines()[0] if text else type(failure).__name__
    if isinstance(failure, AdvisorError):
        return Answer("failed", reason=failure.message, error=failure)
    if isinstance(failure, KeyboardInterrupt):
        return Answer("interrupted", reason="stopped by Ctrl-C")
    if isinstance(failure, MemoryError) or type(failure).__name__ == "OutOfMemoryError":
        return Answer("out_of_memory", reason=line.partition(TORCH_ADVICE)[0])
    if isinstance(failure, RuntimeError) and any(words in text for words in NO_MEMORY):
        return Answer("out_of_memory", reason=line)
    return Answer("failed", reason=f"{type(failure).__name__}: {line}")


def _call(request: Request, sender: Connection) -> Answer:
    options = dict(request.kwargs)
    if request.sends_events:
        options["on_event"] = _event_sender(sender)
    try:
        return Answer("completed", request.function(*request.args, **options))
    except BaseException as failure:
        if not isinstance(failure, AdvisorError | KeyboardInterrupt):
            traceback.print_exc()  # into the log
        return classify(failure)


def _event_sender(sender: Connection) -> RawListener:
    def send(event: dict[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError):
            sender.send(event)

    return send


def _send_answer(sender: Connection, answer: Answer) -> None:
    try:
        sender.send(answer)
    except (TypeError, AttributeError, ValueError) as failure:
        traceback.print_exc()
        sender.send(Answer("failed", reason=f"the result cannot be sent between processes: {failure}"))


def _die_at_end_of(lifeline: Connection) -> None:
    """Blocks until the parent's end is closed, which is when the parent is done with this process or gone."""
    with contextlib.suppress(EOFError, OSError):
        lifeline.recv_bytes()
    os.kill(os.getpid(), signal.SIGKILL)


def _redirect_output(log_path: Path | None) -> None:
    """Everything printed, also by C code and by a crash, goes to the log and never to the user's screen, unless there
    is no log and ``ADVISOR_DEBUG`` is set.
    """
    if log_path is not None:
        log_path.parent.mkdir(parents=True, exist_ok=True)
        target = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    elif os.environ.get(DEBUG_VARIABLE):
        target = os.dup(2)
    else:
        target, name = tempfile.mkstemp(prefix="advisor-log-")
        os.unlink(name)
    for stream in (1, 2):
        os.dup2(target, stream)
    os.close(target)
    sys.stdout = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8", errors="replace")
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8", errors="replace")
    faulthandler.enable(sys.stderr)
