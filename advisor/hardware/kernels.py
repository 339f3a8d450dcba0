"""What works on a device, found by trying it: data types, attention kernels, the bitsandbytes back end."""

from __future__ import annotations

from advisor.hardware.host import Finding

DTYPES = ("float32", "bfloat16", "float16")
KERNELS = ("math", "efficient", "flash")


def try_dtype(device: str, dtype: str) -> Finding:
    """Whether a matrix product under autocast with backward works in this data type (``float32``: without autocast).

    Returns:
        ``"yes"`` or ``"no"`` with what happened.
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
    except (RuntimeError, TypeError, ValueError) as failure:
        return Finding("no", f"tried: {_first_line(failure)}")
    if kind == "cuda" and dtype == "bfloat16" and torch.cuda.get_device_capability(device) < (8, 0):
        return Finding("no", "works only emulated below compute capability 8.0")
    return Finding("yes", "tried: product with backward under autocast")


def try_attention_kernel(device: str, kernel: str, dtype: str) -> Finding:
    """Whether one scaled-dot-product kernel runs forward and backward, alone.

    On CPU ``"flash"`` is torch's own blocked kernel; it has no ``"efficient"`` one.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    backend = {
        "math": SDPBackend.MATH,
        "efficient": SDPBackend.EFFICIENT_ATTENTION,
        "flash": SDPBackend.FLASH_ATTENTION,
    }[kernel]
    if kernel == "efficient" and torch.device(device).type == "cpu":
        return Finding("no", "torch has no memory-efficient kernel on CPU")
    try:
        q, k, v = (
            torch.rand(2, 4, 64, 32, device=device, dtype=getattr(torch, dtype), requires_grad=True) for _ in range(3)
        )
        with sdpa_kernel(backend):
            scaled_dot_product_attention(q, k, v).sum().backward()
    except (RuntimeError, TypeError, ValueError) as failure:
        return Finding("no", f"tried in {dtype}: {_first_line(failure)}")
    return Finding("yes", f"tried in {dtype}: forward and backward")


def try_bitsandbytes(device: str) -> Finding:
    """Whether a weight can be packed to NF4 and unpacked again here.

    A broken native library can kill the process: call it last, in a process that may die.
    """
    import os

    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # its kernels package may otherwise look for kernels on a hub
    try:
        import bitsandbytes
        import torch
        from bitsandbytes.functional import dequantize_4bit, quantize_4bit

        weight = torch.rand(128, 64, device=device)
        packed, state = quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
        error = float((dequantize_4bit(packed, state) - weight).abs().max())
    except ImportError as failure:
        return Finding("no", f"not importable: {_first_line(failure)}")
    except Exception as failure:
        return Finding("no", f"tried: {type(failure).__name__}: {_first_line(failure)}")
    if error > 0.2:
        return Finding("no", f"NF4 round trip is off by {error:.2f} of a weight range of 1")
    return Finding("yes", f"bitsandbytes {bitsandbytes.__version__}: NF4 round trip within {error:.2f}")


def _first_line(failure: BaseException) -> str:
    lines = str(failure).strip().splitlines()
    return lines[0][:160] if lines else type(failure).__name__
