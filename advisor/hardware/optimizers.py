"""Optimizer steps and 4-bit weights to time. bitsandbytes is imported only where its own figures are built."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from advisor.hardware.benchmarks import Figure, Scale, Workload, shrunk

if TYPE_CHECKING:
    import torch

PACKING = "packing_4bit"
"""Key of the rate at which weights are turned into NF4, in bytes of the weights as they were."""
FLOAT_STATES_BYTES = 28.0
"""Bytes that AdamW moves for a float32 parameter: parameter, gradient and two states are read, all but the gradient
written, 4 bytes each."""
BYTE_STATES_BYTES = 16.0
"""The same with states of one byte: 4 + 4 + 1 + 1 read, 4 + 1 + 1 written."""
IMPLEMENTATIONS = ("foreach", "fused")
NF4_PACKED_BYTES, NF4_BLOCK = 0.5, 64
"""Per weight, and weights that share one float32 scale (bitsandbytes ``quantize_4bit``)."""


def optimizer_figures(device: str, scale: Scale) -> Iterator[Figure]:
    """AdamW of torch, foreach and fused, over many small and over a few large tensors."""
    for implementation in IMPLEMENTATIONS:
        for shape in scale.optimizer_shapes:
            quick = implementation == "fused" and shape == scale.optimizer_shapes[-1]
            yield _adamw(implementation, device, shape, quick=quick)


def bitsandbytes_figures(device: str, scale: Scale) -> Iterator[Figure]:
    """AdamW with 8-bit states, and NF4 weights packed and unpacked."""
    yield _adamw("8bit", device, scale.optimizer_shapes[-1], quick=False)
    yield Figure("bytes_per_s", "quantization", "unpacking NF4", lambda divisor: _unpack(device, scale, divisor))
    yield Figure("bytes_per_s", PACKING, "packing NF4", lambda divisor: _pack(device, scale, divisor))


def _adamw(implementation: str, device: str, shape: tuple[int, int], *, quick: bool) -> Figure:
    def build(divisor: int) -> Workload:
        import torch

        count, elements = shape[0], shrunk(shape[1], divisor)
        parameters = [torch.nn.Parameter(torch.zeros(elements, device=device)) for _ in range(count)]
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, 1e-3)
        amount = (BYTE_STATES_BYTES if implementation == "8bit" else FLOAT_STATES_BYTES) * count * elements
        if implementation == "8bit":
            from bitsandbytes.optim import AdamW8bit

            step = AdamW8bit(parameters, lr=1e-5).step
        else:
            step = torch.optim.AdamW(parameters, lr=1e-5, **{implementation: True}).step
        return Workload(amount, f"AdamW, {count} tensors of {elements}", f"{count}x{elements}", step)

    key = f"optimizer_{implementation}"
    return Figure("bytes_per_s", key, f"{key}, {shape[0]} tensors of {shape[1]}", build, quick=quick)


def _unpack(device: str, scale: Scale, divisor: int) -> Workload:
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    weight = _weight(device, scale, divisor)
    packed, state = quantize_4bit(weight, blocksize=NF4_BLOCK, quant_type="nf4")
    moved_bytes = weight.numel() * (NF4_PACKED_BYTES + 4 / NF4_BLOCK + weight.itemsize)
    label = f"{_in_words(weight)} unpacked"
    return Workload(moved_bytes, label, f"{moved_bytes:.0f}", lambda: dequantize_4bit(packed, state))


def _pack(device: str, scale: Scale, divisor: int) -> Workload:
    """As loading does it: the scales are quantised, too."""
    from bitsandbytes.functional import quantize_4bit

    weight = _weight(device, scale, divisor)

    def pack() -> None:
        quantize_4bit(weight, blocksize=NF4_BLOCK, quant_type="nf4", compress_statistics=True)

    return Workload(float(weight.nbytes), f"{_in_words(weight)} packed", "", pack)


def _weight(device: str, scale: Scale, divisor: int) -> torch.Tensor:
    import torch

    rows, columns = scale.nf4_shape
    return torch.randn(shrunk(rows, divisor, 64), columns, device=device, dtype=getattr(torch, scale.nf4_dtype))


def _in_words(weight: torch.Tensor) -> str:
    rows, columns = weight.shape
    return f"{rows} x {columns} weights of {str(weight.dtype).removeprefix('torch.')}"
