"""``torch.compile``: where it turns out not to work, the run goes on without it."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Iterator

from torch import nn

from advisor.hardware.backends.base import Runtime

COMPILER_MODULES = ("torch._dynamo.", "torch._functorch.", "torch._inductor.")
"""Dynamo calls every compiled forward pass, AOTAutograd (``torch._functorch``) every compiled backward pass, inductor
every kernel: at least one of them stands in the traceback of whatever goes wrong there."""


def compile_problem(torch_device: str) -> str | None:
    """What goes wrong when a small model is compiled and trained for one step here; ``None`` when it works.

    Takes some seconds, and spares a large model that could not be compiled either from being loaded twice.
    """
    import torch._dynamo

    model = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 1)).to(torch_device)
    try:
        with torch._dynamo.config.patch(suppress_errors=False):
            torch.compile(model)(torch.ones(2, 8, device=torch_device)).sum().backward()
    except Exception as failure:  # a compiler can fail in any way
        return described(failure)
    return None


def raised_by_compiled_code(failure: BaseException) -> bool:
    """Whether an exception came out of a compiled model or of the compiler, directly or as the cause of another one.

    It does not say whose fault it is: what is wrong with the model or its input comes out of the compiled model, too.
    Only executing the model as it is written can tell them apart.
    """
    for error in _chain(failure):
        frames = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
        if any(f"{module}.".startswith(COMPILER_MODULES) for module in (type(error).__module__, *frames)):
            return True
    return False


def described(failure: Exception) -> str:
    """Type and first line; of what a compiler raised rather than of Dynamo's wrapper around it."""
    inner = getattr(failure, "inner_exception", failure)
    lines = str(inner).strip().splitlines()
    return f"{type(inner).__name__}: {lines[0]}" if lines else type(inner).__name__


def forget_compiled_code(runtime: Runtime) -> None:
    """Free what compiled graphs hold on to; the device's peak is counted anew."""
    import torch._dynamo

    torch._dynamo.reset()
    gc.collect()
    runtime.release_cached()
    runtime.reset_peaks()


def _chain(failure: BaseException | None) -> Iterator[BaseException]:
    """The exception, what it was raised from, and so on."""
    while failure is not None:
        yield failure
        failure = failure.__cause__ or failure.__context__
