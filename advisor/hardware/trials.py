"""What works on a device, found by trying it: data types, attention kernels, ``torch.compile``, bitsandbytes.

bitsandbytes is tried in a process of its own, beside the imports of the probing one: a broken native library ends only
that process, and importing it costs no time when a second core is free. Run as ``python -m advisor.hardware.trials
DEVICE DTYPE``, it prints one JSON line per finding.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

from advisor.hardware.attention import backend
from advisor.hardware.host import Finding

DTYPES = ("float32", "bfloat16", "float16")
KERNELS = ("math", "efficient", "flash", "cudnn")
LARGEST_NF4_ERROR = 0.2
"""Of weights between 0 and 1: half the largest gap of the NF4 code book is 0.14 (QLoRA, Dettmers et al. 2023,
appendix E)."""
LARGEST_PRODUCT_ERROR = 0.05
"""Relative, against the product with the same weights unpacked: float16 accumulated in another order stays below."""
SMALLEST_8BIT_ELEMENTS = 8192
"""Beyond the 4096 elements from which bitsandbytes keeps states in one byte (``min_8bit_size``)."""
TRIAL_S = 25.0
"""Importing torch and bitsandbytes from a cold disk takes about ten seconds."""
COMPILED_PROGRAM = """
import sys, torch
f = torch.compile(lambda x: torch.nn.functional.gelu(x * 2.0).sum())
x = torch.ones(64, device=sys.argv[1], requires_grad=True)
f(x).backward()
print("finite" if bool(torch.isfinite(x.grad).all()) else "not finite")
"""


def try_dtype(device: str, dtype: str) -> Finding:
    """Whether a matrix product under autocast with backward works in this data type (``float32``: without autocast).

    Returns:
        ``"yes"`` or ``"no"`` with what happened; ``"unknown"`` when the device was too full to tell.
    """
    import torch

    kind = torch.device(device).type
    try:
        weight = torch.rand(64, 64, device=device, requires_grad=True)
        with torch.autocast(kind, dtype=getattr(torch, dtype), enabled=dtype != "float32"):
            out = torch.rand(8, 64, device=device) @ weight
        out.float().sum().backward()
        if str(out.dtype) != f"torch.{dtype}":
            return Finding("no", f"autocast gave {out.dtype}")
        if weight.grad is None or not bool(torch.isfinite(weight.grad).all()):
            return Finding("no", "the gradient was not finite")
    except (RuntimeError, TypeError, ValueError, MemoryError) as failure:
        return _refusal(failure, "tried")
    return Finding("yes", "tried: product with backward under autocast")


def try_native_dtype(device: str, dtype: str, emulated: Callable[[str, str], str]) -> Finding:
    """As :func:`try_dtype`; a data type that works but is emulated counts as ``"no"``.

    Args:
        device: As torch names it.
        dtype: As torch names it.
        emulated: The back end's reason why a type is emulated on a device; empty where it is not.
    """
    found = try_dtype(device, dtype)
    reason = emulated(device, dtype) if found.value == "yes" else ""
    return Finding("no", reason) if reason else found


def try_attention_kernel(device: str, kernel: str, dtype: str) -> Finding:
    """Whether one scaled-dot-product kernel runs forward and backward, alone.

    On CPU ``"flash"`` is torch's own blocked kernel.
    """
    import torch
    from torch.nn.attention import sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    try:
        q, k, v = (
            torch.rand(2, 4, 64, 32, device=device, dtype=getattr(torch, dtype), requires_grad=True) for _ in range(3)
        )
        with sdpa_kernel(backend(kernel)):
            scaled_dot_product_attention(q, k, v).sum().backward()
    except (RuntimeError, TypeError, ValueError, MemoryError) as failure:
        return _refusal(failure, f"tried in {dtype}")
    return Finding("yes", f"tried in {dtype}: forward and backward")


def is_out_of_memory(failure: BaseException) -> bool:
    """Whether memory was missing, on the device or on the host, whatever library says so."""
    import torch

    if isinstance(failure, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(failure).lower()
    return any(sign in text for sign in ("out of memory", "not enough memory", "can't allocate memory", "alloc_failed"))


def _refusal(failure: BaseException, how: str) -> Finding:
    """That others fill the device says nothing about what it can do."""
    if is_out_of_memory(failure):
        return Finding("unknown", f"{how}, but the device is too full: {first_line(failure)}")
    return Finding("no", f"{how}: {first_line(failure)}")


def try_bitsandbytes(device: str, dtype: str) -> Iterator[tuple[str, Finding]]:
    """What of bitsandbytes works: packing to NF4 and unpacking, products with 4-bit weights, an optimizer with 8-bit
    states.

    A broken native library can kill the process: call it last, in a process that may die.

    Args:
        device: As torch names it.
        dtype: In which products with 4-bit weights are computed.

    Yields:
        What was tried, and ``"yes"`` or ``"no"`` with what happened. Without the package there is only the first.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # its kernels package may otherwise look for kernels on a hub
    try:
        version = importlib.import_module("bitsandbytes").__version__
    except ImportError as failure:
        yield "bitsandbytes", Finding("no", f"not importable: {first_line(failure)}")
        return
    except Exception as failure:
        yield "bitsandbytes", Finding("no", f"importing it failed: {type(failure).__name__}: {first_line(failure)}")
        return
    for name, trial in (
        ("bitsandbytes", _round_trip),
        ("bitsandbytes matmul_4bit", lambda place: _product_4bit(place, dtype)),
        ("bitsandbytes adamw_8bit", _step_8bit),
    ):
        try:
            yield name, Finding("yes", f"bitsandbytes {version}: {trial(device)}")
        except Exception as failure:
            yield name, Finding("no", f"tried: {type(failure).__name__}: {first_line(failure)}")


def _round_trip(device: str) -> str:
    import torch
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    weight = torch.rand(128, 64, device=device)
    packed, state = quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
    error = float((dequantize_4bit(packed, state) - weight).abs().max())
    if error > LARGEST_NF4_ERROR:
        raise ArithmeticError(f"NF4 round trip is off by {error:.2f} of a weight range of 1")
    return f"NF4 round trip within {error:.2f}"


def _product_4bit(device: str, dtype: str) -> str:
    """Forward and the gradient of the input, as QLoRA needs them."""
    import torch
    from bitsandbytes import matmul_4bit
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    data_type = getattr(torch, dtype)
    weight = torch.rand(64, 128, device=device, dtype=data_type)
    packed, state = quantize_4bit(weight, quant_type="nf4")
    x = torch.rand(4, 128, device=device, dtype=data_type, requires_grad=True)
    out = matmul_4bit(x, packed.t(), quant_state=state)
    out.sum().backward()
    expected = x.detach() @ dequantize_4bit(packed, state).t()
    error = float(((out.detach() - expected).abs() / expected.abs()).max())
    if error > LARGEST_PRODUCT_ERROR or x.grad is None or not bool(torch.isfinite(x.grad).all()):
        raise ArithmeticError(f"a product with 4-bit weights is off by {error:.0%}")
    return f"product and gradient, within {error:.1%} of the unpacked one"


def _step_8bit(device: str) -> str:
    import torch
    from bitsandbytes.optim import AdamW8bit

    parameter = torch.nn.Parameter(torch.zeros(SMALLEST_8BIT_ELEMENTS, device=device))
    parameter.grad = torch.ones_like(parameter)
    optimizer = AdamW8bit([parameter], lr=1e-2)
    optimizer.step()
    moved = float(parameter.detach().mean())
    states = {str(value.dtype) for value in optimizer.state[parameter].values() if hasattr(value, "dtype")}
    if "torch.uint8" not in states or not -2e-2 < moved < 0:
        raise ArithmeticError(f"a step of 0.01 moved the parameter by {moved:.3f}, with states in {sorted(states)}")
    return "a step with states of one byte"


def first_line(failure: BaseException) -> str:
    """What an exception says first, short enough for a table."""
    lines = str(failure).strip().splitlines()
    return lines[0][:160] if lines else type(failure).__name__


def try_compile(device: str, limit_s: float, program: str = COMPILED_PROGRAM) -> Finding:
    """Compile a small function and differentiate it; needs a C++ compiler on CPU and Triton on CUDA.

    Args:
        device: As torch names it.
        limit_s: After this the compiler is ended and the answer is ``"unknown"``.
        program: What compiles it; gets the device as its argument and prints ``finite``.
    """
    command = [sys.executable, "-c", program, device]
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


def start_trial(device: str, dtype: str) -> subprocess.Popen[str]:
    """Begin trying bitsandbytes on a device, with products in this data type."""
    command = [sys.executable, "-m", "advisor.hardware.trials", device, dtype]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def finish_trial(trial: subprocess.Popen[str], limit_s: float = TRIAL_S) -> list[dict[str, Any]]:
    """Wait for the answers; an end by a signal or by the limit is one.

    Returns:
        ``fact`` findings.
    """
    findings, ended, _ = collect(trial, limit_s)
    if ended:
        findings.append({"kind": "fact", "name": "bitsandbytes", "value": "no", "reason": ended})
    return findings


def collect(process: subprocess.Popen[str], limit_s: float) -> tuple[list[dict[str, Any]], str, bool]:
    """Wait for a process that prints JSON lines; when its time is up, it is ended.

    Returns:
        The findings, why it ended before it was done (empty when it was done), and whether it ended by itself.
    """
    ended, by_itself = "", True
    try:
        output, _ = process.communicate(timeout=limit_s)
        if process.returncode:
            ended = f"trying it ended the process: {exit_reason(process.returncode)}"
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        ended, by_itself = f"trying it took longer than {limit_s:.0f} s", False
    findings = [json.loads(line) for line in output.splitlines() if line.startswith("{") and line.endswith("}")]
    return findings, ended, by_itself


def exit_reason(code: int | None) -> str:
    """How a process ended, in words."""
    return f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"


def main(device: str, dtype: str) -> None:
    """Try bitsandbytes and print what happened."""
    for name, found in try_bitsandbytes(device, dtype):
        print(json.dumps({"kind": "fact", "name": name, "value": found.value, "reason": found.reason}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:3])
