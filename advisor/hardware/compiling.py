"""Whether ``torch.compile`` works: tried in a process of its own with a time limit, or what it needs looked for."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys

from advisor.hardware.host import Finding

PROGRAM = """
import sys, torch
f = torch.compile(lambda x: torch.nn.functional.gelu(x * 2.0).sum())
x = torch.ones(64, device=sys.argv[1], requires_grad=True)
f(x).backward()
print("finite" if bool(torch.isfinite(x.grad).all()) else "not finite")
"""


def look_for_compiler(device: str) -> Finding:
    """What ``torch.compile`` needs, where there is no time to try it: a C++ compiler on CPU, Triton on CUDA."""
    if device != "cpu":
        there = importlib.util.find_spec("triton") is not None
        return Finding("untried", "Triton is installed" if there else "there is no Triton")
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))), None)
    return Finding("untried", f"a C++ compiler is there, {compiler}" if compiler else "there is no C++ compiler")


def try_compile(device: str, limit_s: float) -> Finding:
    """Compile a small function and differentiate it; needs a C++ compiler on CPU and Triton on CUDA.

    Args:
        device: ``"cpu"`` or ``"cuda:N"``.
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
