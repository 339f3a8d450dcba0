"""``torch.compile``: where it cannot work it is refused, and where it turns out not to, the run goes on without it."""

from __future__ import annotations

import gc
import importlib.util
import shutil
import sys
import traceback
from collections.abc import Iterator

import torch
from torch import nn

LEAST_TRITON_CAPABILITY = (7, 0)
"""Triton, which compiles for GPUs, needs compute capability 7.0 (``torch._inductor.scheduler``: "Found ... which is too
old to be supported by the triton GPU compiler")."""

COMPILERS = ("g++", "clang++", "c++")
"""What inductor builds CPU kernels with (``torch._inductor.config.cpp.cxx``, or the variable ``CXX``)."""

COMPILER_MODULES = ("torch._dynamo", "torch._functorch", "torch._inductor")
"""Dynamo calls every compiled forward pass, AOTAutograd (``torch._functorch``) every compiled backward pass, inductor
every kernel: at least one of them stands in the traceback of whatever goes wrong there."""


def compile_refusal(device_type: str, *, quantized: bool, traced: bool) -> tuple[str, str] | None:
    """Why a plan with ``torch_compile`` cannot run, and the way out; ``None`` when nothing speaks against it.

    Args:
        device_type: ``"cpu"``, or anything else for an accelerator.
        quantized: Weights are stored in 4 bits: each such layer is a call that inductor cannot look into, and on the
            CPU bitsandbytes' own kernels break the graph.
        traced: Nothing will be executed, so that this machine's tools do not matter.
    """
    way_out = "leave torch_compile off"
    if quantized:
        return "torch.compile gains nothing on 4-bit weights, whose products it cannot look into", way_out
    if traced:
        return None
    if sys.platform == "win32":
        return "torch.compile's kernels need a toolchain that is not expected on Windows", way_out
    if device_type == "cpu":
        if not any(shutil.which(name) for name in COMPILERS):
            return (
                f"torch.compile builds its CPU kernels with a C++ compiler, but found none of {', '.join(COMPILERS)}",
                f"install one, or {way_out}",
            )
        return None
    if importlib.util.find_spec("triton") is None:
        return "torch.compile builds its GPU kernels with triton, which is not installed", way_out
    if torch.cuda.is_available() and (capability := torch.cuda.get_device_capability()) < LEAST_TRITON_CAPABILITY:
        needed, found = ("{}.{}".format(*pair) for pair in (LEAST_TRITON_CAPABILITY, capability))
        return f"torch.compile needs compute capability {needed}, but the device has {found}", way_out
    return None


def compile_problem(device_type: str) -> str | None:
    """What goes wrong when a small model is compiled and trained for one step here; ``None`` when it works.

    Takes some seconds, and spares a large model that could not be compiled either from being loaded twice.
    """
    import torch._dynamo

    model = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 1)).to(device_type)
    try:
        with torch._dynamo.config.patch(suppress_errors=False):
            torch.compile(model)(torch.ones(2, 8, device=device_type)).sum().backward()
    except Exception as failure:  # a compiler can fail in any way
        return described(failure)
    return None


def raised_by_compiled_code(failure: BaseException) -> bool:
    """Whether an exception came out of a compiled model or of the compiler, directly or as the cause of another one.

    It does not say whose fault it is: what is wrong with the model or its input comes out of the compiled model, too.
    Only executing the model as it is written can tell them apart.
    """
    return any(
        _is_the_compilers(type(error).__module__)
        or any(
            _is_the_compilers(frame.f_globals.get("__name__", ""))
            for frame, _ in traceback.walk_tb(error.__traceback__)
        )
        for error in _chain(failure)
    )


def described(failure: Exception) -> str:
    """Type and first line; of what a compiler raised rather than of Dynamo's wrapper around it."""
    inner = getattr(failure, "inner_exception", failure)
    lines = str(inner).strip().splitlines()
    return f"{type(inner).__name__}: {lines[0]}" if lines else type(inner).__name__


def forget_compiled_code() -> None:
    """Free what compiled graphs hold on to; the device's peak is counted anew."""
    import torch._dynamo

    torch._dynamo.reset()
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _chain(failure: BaseException | None) -> Iterator[BaseException]:
    """The exception, what it was raised from, and so on."""
    while failure is not None:
        yield failure
        failure = failure.__cause__ or failure.__context__


def _is_the_compilers(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in COMPILER_MODULES)
