"""Matrix products to time: square, layer-shaped, low-rank and batched."""

from __future__ import annotations

import math
from collections.abc import Iterator

from advisor.hardware.benchmarks import HIGH_RANK, LOW_RANK, Figure, Scale, Workload, shrunk


def product_figures(device: str, dtype: str, scale: Scale, *, capability: tuple[int, int] | None) -> Iterator[Figure]:
    """All products in one data type; on CUDA from compute capability 8.0 on float32 also as TF32.

    Args:
        device: Where the operands lie.
        dtype: ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        scale: Sizes.
        capability: Of the CUDA device; ``None`` on CPU.
    """
    tf32 = dtype == "float32" and capability is not None and capability >= (8, 0)
    middle = scale.squares[len(scale.squares) // 2]
    for side in scale.squares:
        yield _product(dtype, dtype, device, (side, side, side), quick=side == middle)
        if tf32:
            yield _product("tf32", dtype, device, (side, side, side), quick=side == middle, tf32=True)
    for index, (width_in, width_out) in enumerate(scale.layers):
        yield _product(dtype, dtype, device, (scale.rows, width_in, width_out), quick=index == 0)
        if tf32:
            yield _product("tf32", dtype, device, (scale.rows, width_in, width_out), quick=False, tf32=True)
    for index, width in enumerate(scale.skinny_widths):
        for key, rank in (("skinny", LOW_RANK), ("rank64", HIGH_RANK)):
            quick = index == 0
            yield _product(f"{dtype}/{key}", dtype, device, (scale.rows, width, rank), quick=quick)
            yield _product(f"{dtype}/{key}", dtype, device, (scale.rows, rank, width), quick=quick and rank == LOW_RANK)
    for index, length in enumerate(scale.lengths):
        batch = max(1, scale.rows // length) * scale.heads
        yield _product(f"{dtype}/bmm", dtype, device, (batch, length, scale.head_width, length), quick=index == 1)
        yield _product(f"{dtype}/bmm", dtype, device, (batch, length, length, scale.head_width), quick=False)


def reference_figure(device: str, dtype: str, scale: Scale) -> Figure:
    """The product that is timed again at the end of a probe, to see whether the machine has changed meanwhile."""
    side = scale.squares[len(scale.squares) // 2]
    return _product(dtype, dtype, device, (side, side, side), quick=True)


def _product(key: str, dtype: str, device: str, shape: tuple[int, ...], *, quick: bool, tf32: bool = False) -> Figure:
    """Of a matrix (rows, inner width, output width), or of a batch of them where ``shape`` begins with its size."""

    def build(divisor: int) -> Workload:
        import torch

        *batch, m, k, n = shape
        if batch:
            batch = [shrunk(batch[0], divisor)]
        else:
            m = shrunk(m, divisor, 64)
        data_type = getattr(torch, dtype)
        left = torch.randn(*batch, m, k, device=device, dtype=data_type)
        right = torch.randn(*batch, k, n, device=device, dtype=data_type)
        out = torch.empty(*batch, m, n, device=device, dtype=data_type)
        multiply = torch.bmm if batch else torch.mm
        label = "".join(f"{size} batches of " for size in batch) + f"{m} x {k} x {n}"
        point = "x".join(map(str, (*batch, m, k, n)))
        return Workload(2.0 * math.prod((*batch, m, k, n)), label, point, lambda: multiply(left, right, out=out))

    return Figure("flops_per_s", key, f"{key} {' x '.join(map(str, shape))}", build, quick=quick, tf32=tf32)
