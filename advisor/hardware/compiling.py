"""Whether ``torch.compile`` works: tried in a process of its own with a time limit, or what it needs looked for."""

from __future__ import annotations

import subprocess
import sys

from advisor.hardware.backends.base import Runtime
from advisor.hardware.host import Finding

PROGRAM = """
import sys, torch
f = torch.compile(lambda x: torch.nn.functional.gelu(x * 2.0).sum())
x = torch.ones(64, device=sys.argv[1], requires_grad=True)
f(x).backward()
print("finite" if bool(torch.isfinite(x.grad).all()) else "not finite")
"""


def look_for_compiler(runtime: Runtime) -> Finding:
    """Whether what ``torch.compile`` needs is there, where there is no time to try it."""
    refusal = runtime.compile_refusal()
    return Finding("untried", refusal[0] if refusal is not None else "its compiler is there")


def try_compile(device: str, limit_s: float) -> Finding:
    """Compile a small function and differentiate it; needs a C++ compiler on CPU and Triton on CUDA.

    Args:
        device: As torch names it.
        limit_s: After this the compiler is ended and the answer is ``"unknown"``.
    """
    command = [sys.executable, "-c", PROGRAM, device]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        return Finding("unknown", f"compiling a small function took longer than {limit_s:.0f} s")
    except OSError as failure:
        return Finding("unknown", f"could not be tried: {failure}")
    if done.returncode == 0 and done.stdout.strip() == "finite":
        return Finding("yes", "tried: a small function with its gradient")
    lines = [line for line in (done.stderr or done.stdout).strip().splitlines() if line.strip()]
    return Finding("no", f"tried: {lines[-1][:160] if lines else f'exit code {done.returncode}'}")
