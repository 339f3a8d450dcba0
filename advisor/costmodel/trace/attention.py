"""The scaled-dot-product kernel that a CUDA device would choose, called directly so that its saved tensors are traced.

Source of the rules: aten/src/ATen/native/transformers/cuda/sdp_utils.cpp (priority flash, memory-efficient, math).
From compute capability 9.0 on torch 2.11 puts cuDNN's kernel first (half precision, heads of at most 128 values, no
dropout or a multiple of 1/16 of it). It keeps the same tensors for the backward pass as flash attention, query, key,
value, output and log-sum-exp, so that flash attention stands for it here; what it takes is another matter, which a
probe finds out (``DeviceRates``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
import torch.nn.functional as F

aten = torch.ops.aten
_ORIGINAL = F.scaled_dot_product_attention

FLASH_MAX_HEAD_WIDTH = 256
"""Flash attention refuses wider heads (sdp_utils.cpp, check_head_dim_size_flash)."""


class CudaAttention:
    """Replaces ``F.scaled_dot_product_attention`` while tracing for CUDA."""

    def __init__(self, device_type: str, compute_capability: tuple[int, int]) -> None:
        self.device_type = device_type
        self.ampere = compute_capability >= (8, 0)

    def kernel(self, query: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None) -> str:
        """``"flash"``, ``"efficient"`` or ``"math"`` for these inputs."""
        half = query.dtype in (torch.float16, torch.bfloat16)
        width, value_width = query.shape[-1], value.shape[-1]
        if self.ampere and mask is None and half and width == value_width and width <= FLASH_MAX_HEAD_WIDTH:
            return "flash"
        alignment = 8 if half else 4 if self.ampere else 1
        supported = (torch.float16, torch.float32, torch.bfloat16) if self.ampere else (torch.float16, torch.float32)
        if query.dtype in supported and width % alignment == 0 and value_width % alignment == 0:
            return "efficient"
        return "math"

    def __call__(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> torch.Tensor:
        query, key, value, attn_mask = self._autocast(query, key, value, attn_mask)
        kernel = self.kernel(query, value, attn_mask)
        with self._without_autocast():
            if kernel == "math":
                return _ORIGINAL(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
            if enable_gqa and kernel == "efficient":
                groups = query.shape[1] // key.shape[1]
                key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
            if kernel == "flash":
                return _flash(query, key, value, dropout_p, is_causal, scale)
            return _efficient(query, key, value, attn_mask, dropout_p, is_causal, scale)

    def _autocast(self, query, key, value, mask):  # type: ignore[no-untyped-def]
        if not torch.is_autocast_enabled(self.device_type):
            return query, key, value, mask
        dtype = torch.get_autocast_dtype(self.device_type)
        query, key, value = (x.to(dtype) if x.dtype == torch.float32 else x for x in (query, key, value))
        if mask is not None and mask.is_floating_point():
            mask = mask.to(dtype)
        return query, key, value, mask

    @contextlib.contextmanager
    def _without_autocast(self) -> Iterator[None]:
        previous = torch.is_autocast_enabled(self.device_type)
        torch.set_autocast_enabled(self.device_type, False)
        try:
            yield
        finally:
            torch.set_autocast_enabled(self.device_type, previous)


def _flash(query, key, value, dropout_p, is_causal, scale):  # type: ignore[no-untyped-def]
    width = query.shape[-1]
    pad = -width % 8
    if pad:
        query, key, value = (F.pad(x, (0, pad)) for x in (query, key, value))
    out = aten._scaled_dot_product_flash_attention(
        query, key, value, dropout_p, is_causal, False, scale=scale or width**-0.5
    )[0]
    return out[..., :width] if pad else out


def _efficient(query, key, value, mask, dropout_p, is_causal, scale):  # type: ignore[no-untyped-def]
    if mask is not None:
        if mask.dtype == torch.bool:
            minus_infinity = torch.scalar_tensor(float("-inf"), dtype=query.dtype, device=query.device)
            mask = torch.where(mask, 0.0, minus_infinity)
        length = mask.shape[-1]
        if length % 8:
            # The kernel wants rows aligned to 8 elements; torch pads a copy and slices it.
            mask = F.pad(mask, (0, 8 - length % 8))[..., :length]
        mask = mask.expand(query.shape[0], query.shape[1], query.shape[2], key.shape[2])
    needs_logsumexp = any(x.requires_grad for x in (query, key, value))
    return aten._scaled_dot_product_efficient_attention(
        query, key, value, mask, needs_logsumexp, dropout_p, is_causal, scale=scale
    )[0]
