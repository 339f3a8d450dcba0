"""Importing libraries on a machine with a GPU without starting CUDA: a process that has started it cannot be forked."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch

AVAILABLE, STARTED = 1, 2
"""Exit code of the process that asks, as bits: there is a GPU; asking has started CUDA."""


@contextlib.contextmanager
def sleeping_gpu() -> Iterator[None]:
    """While the block runs, a GPU's compute capability is NVML's answer and not that of a started CUDA.

    bitsandbytes (through peft, through transformers' Trainer) asks torch for it when it is imported, to choose its
    library; other packages ask too. In the server that measuring processes are forked from, that question would start
    CUDA, and every one of them would fail with "cannot re-initialize CUDA in forked subprocess". So would the mere
    question whether there is a GPU, where torch cannot ask NVML. What starts CUDA in another way while it is imported
    gets an ``ImportError``.

    Raises:
        ImportError: libraries would ask and NVML cannot answer; import nothing then, and leave it to the children.
    """
    if not torch.backends.cuda.is_built() and not torch.cuda.is_available():
        yield
        return
    answer = ask_in_a_fork(torch.cuda.is_available)
    if not answer & AVAILABLE:
        yield
        return
    if answer & STARTED:
        raise ImportError("nothing can be imported without starting CUDA: there is a GPU, but no NVML to ask about it")
    with contextlib.ExitStack() as stack:
        stack.enter_context(_answering("_lazy_init", _refuse))
        if (capability := _capability()) is not None:
            stack.enter_context(_answering("get_device_capability", lambda device=None: capability))
        yield


def ask_in_a_fork(question: Callable[[], bool]) -> int:
    """Whether there is a GPU, asked in a process of its own, and whether the question started CUDA there.

    Where torch cannot ask NVML (a container that was not given the driver's utilities or the permission, a part of a
    GPU that is named by its UUID), it asks the CUDA runtime, after which no process that is forked can use CUDA.
    Whether that is so is seen by forking once more, as torch itself tells it.

    Args:
        question: ``torch.cuda.is_available``.

    Returns:
        ``AVAILABLE`` and ``STARTED``, added; a process that died says nothing, which is ``STARTED``, too.
    """
    code = _code_of_fork(
        lambda: AVAILABLE * bool(question()) + STARTED * bool(_code_of_fork(lambda: int(torch.cuda._is_in_bad_fork())))
    )
    return code if code in (0, AVAILABLE, STARTED, AVAILABLE + STARTED) else AVAILABLE + STARTED


def _code_of_fork(body: Callable[[], int]) -> int:
    pid = os.fork()
    if not pid:
        code = AVAILABLE + STARTED
        try:
            code = body()
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def _capability() -> tuple[int, int] | None:
    """NVML's answer; ``None`` where there is none and nobody asks.

    Raises:
        ImportError: bitsandbytes would ask.
    """
    from advisor.hardware.nvml import NvmlUnavailable, compute_capability

    try:
        return compute_capability()
    except NvmlUnavailable as failure:
        if importlib.util.find_spec("bitsandbytes") is None:
            return None
        raise ImportError(f"bitsandbytes cannot be imported without starting CUDA: {failure.message}") from None


def _refuse() -> None:
    raise ImportError("it would start CUDA in the process that others are forked from")


@contextlib.contextmanager
def _answering(name: str, function: Callable[..., Any]) -> Iterator[None]:
    before = getattr(torch.cuda, name)
    setattr(torch.cuda, name, function)
    try:
        yield
    finally:
        setattr(torch.cuda, name, before)
