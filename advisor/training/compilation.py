"""``torch.compile``: where it cannot work it is refused, and where it turns out not to, the run goes on without it."""

from __future__ import annotations

import importlib.util
import shutil
import sys

import torch
from torch import nn

LEAST_TRITON_CAPABILITY = (7, 0)
"""Triton, which compiles for GPUs, needs compute capability 7.0 (``torch._inductor.scheduler``: "Found ... which is too
old to be supported by the triton GPU compiler")."""

COMPILERS = ("g++", "clang++", "c++")
"""What inductor builds CPU kernels with (``torch._inductor.config.cpp.cxx``, or the variable ``CXX``)."""


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

    Takes some seconds. From here on, what cannot be compiled of the real model is executed as it is written instead of
    ending the run.
    """
    import torch._dynamo

    model = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 1)).to(device_type)
    torch._dynamo.config.suppress_errors = False
    try:
        torch.compile(model)(torch.ones(2, 8, device=device_type)).sum().backward()
    except Exception as failure:  # a compiler can fail in any way
        lines = str(failure).strip().splitlines()
        return f"{type(failure).__name__}: {lines[0]}" if lines else type(failure).__name__
    finally:
        torch._dynamo.config.suppress_errors = True
    return None
