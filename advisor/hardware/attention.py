"""Attention kernels to time, one at a time, forward and backward, at several lengths."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from advisor.hardware.benchmarks import Figure, Scale, Workload, shrunk

if TYPE_CHECKING:
    import torch
    from torch.nn.attention import SDPBackend

PRODUCTS_FORWARD = 2
"""Products of attention: scores and their sum over values."""
PRODUCTS_BACKWARD = {"math": 4, "efficient": 5, "flash": 5, "cudnn": 5}
"""Two for each product of the forward pass; fused kernels compute the scores once more
(``torch.utils.flop_counter.sdpa_backward_flop_count``)."""


CHOICE, MASKED_CHOICE = "chosen attention", "chosen attention with a mask"
"""Facts of a probed GPU: which kernel torch takes by itself, for batches without and with padding."""
BACKENDS = {
    "math": "MATH",
    "efficient": "EFFICIENT_ATTENTION",
    "flash": "FLASH_ATTENTION",
    "cudnn": "CUDNN_ATTENTION",
}
"""Kernels and the members of ``torch.nn.attention.SDPBackend``."""


def attention_figures(device: str, kernels: tuple[str, ...], dtype: str, scale: Scale) -> Iterator[Figure]:
    """Forward and backward of each kernel that was tried and works.

    Args:
        device: ``"cpu"`` or ``"cuda:N"``.
        kernels: Of ``"math"``, ``"efficient"``, ``"flash"``, ``"cudnn"``; a quick probe times the last one.
        dtype: Data type of queries, keys and values.
        scale: Sizes.
    """
    for kernel in kernels:
        for index, length in enumerate(scale.lengths):
            quick = index == 1 and kernel == kernels[-1]
            yield _attention(device, kernel, dtype, length, scale, backward=False, quick=quick)
            yield _attention(device, kernel, dtype, length, scale, backward=True, quick=quick)


def backend(kernel: str) -> SDPBackend:
    """What torch calls a kernel."""
    from torch.nn.attention import SDPBackend

    return getattr(SDPBackend, BACKENDS[kernel])


def chosen_kernel(device: str, dtype: str, *, masked: bool) -> str:
    """The kernel that torch takes by itself, here and with these libraries; empty where it does not say.

    Which one that is depends on more than the device: from compute capability 9.0 on torch prefers cuDNN's kernel to
    flash attention when the cuDNN that comes with it is new enough (aten/src/ATen/native/transformers/cuda/
    sdp_utils.cpp, ``check_prefer_cudnn_attention``), which it is in the wheels of torch 2.11.

    Args:
        device: ``"cpu"`` or ``"cuda:N"``.
        dtype: Data type of queries, keys and values.
        masked: Whether a mask hides padding.
    """
    import torch
    from torch.nn.attention import SDPBackend

    q, k, v = _inputs((2, 4, 64, 64), device, dtype)
    mask = torch.ones(2, 1, 64, 64, dtype=torch.bool, device=device) if masked else None
    try:
        chosen = int(torch._fused_sdp_choice(q, k, v, mask))
    except (AttributeError, TypeError, RuntimeError):  # not a public function
        return ""
    return next((name for name, backend in BACKENDS.items() if int(getattr(SDPBackend, backend)) == chosen), "")


def _attention(
    device: str, kernel: str, dtype: str, length: int, scale: Scale, *, backward: bool, quick: bool
) -> Figure:
    def build(divisor: int) -> Workload:
        import torch
        from torch.nn.attention import sdpa_kernel
        from torch.nn.functional import scaled_dot_product_attention

        batch = shrunk(max(1, scale.rows // length), divisor)
        q, k, v = _inputs((batch, scale.heads, length, scale.head_width), device, dtype)
        product = 2.0 * batch * scale.heads * length * length * scale.head_width
        label = f"{batch} x {scale.heads} heads x {length} tokens x {scale.head_width}, {dtype}"
        if not backward:
            forward = PRODUCTS_FORWARD * product
            context = sdpa_kernel(backend(kernel))
            return Workload(forward, label, str(length), lambda: scaled_dot_product_attention(q, k, v), context)
        with sdpa_kernel(backend(kernel)):
            out = scaled_dot_product_attention(q, k, v)
        gradient = torch.randn_like(out)
        return Workload(
            PRODUCTS_BACKWARD[kernel] * product,
            label,
            str(length),
            lambda: torch.autograd.grad(out, (q, k, v), gradient, retain_graph=True),
        )

    key = f"attention{'_backward' if backward else ''}/{kernel}"
    return Figure("flops_per_s", key, f"{key}, {length} tokens", build, quick=quick, grad=True)


def _inputs(shape: tuple[int, ...], device: str, dtype: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    import torch

    q, k, v = (torch.randn(shape, device=device, dtype=getattr(torch, dtype), requires_grad=True) for _ in range(3))
    return q, k, v
