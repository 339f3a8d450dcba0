"""Stands in for the flash-attn package while tracing: ``flash_attention_2`` needs neither the package nor a GPU.

transformers looks the kernels up at a model's first forward pass. Here it finds functions that call torch's own port of
the same kernels (aten ``_flash_attention_forward``, which saves query, key, value, output, log-sum-exp and the random
state for the backward pass, as flash_attn_interface.py does), so that their tensors are traced. What surrounds the
kernel, un-padding and re-padding with every index, is transformers' own code.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F

from advisor.core.errors import InputError

aten = torch.ops.aten

MAX_HEAD_WIDTH = 256
"""The package's kernels refuse wider heads (csrc/flash_attn/flash_api.cpp, mha_fwd)."""

_GLOBALS = (
    "_loaded_implementation",
    "_flash_fn",
    "_flash_varlen_fn",
    "_flash_with_kvcache_fn",
    "_pad_fn",
    "_unpad_fn",
    "_process_flash_kwargs_fn",
    "_process_with_kvcache_kwargs_fn",
)


@contextlib.contextmanager
def flash_package() -> Iterator[None]:
    """Let transformers find the stand-ins instead of the package, and put back what it had loaded before."""
    import transformers.modeling_flash_attention_utils as utils

    kept = {name: getattr(utils, name) for name in (*_GLOBALS, "_lazy_imports", "_is_packed_sequence")
            if hasattr(utils, name)}  # fmt: skip
    utils._loaded_implementation = None
    utils._lazy_imports = lambda *_, **__: (
        flash_attn_func, flash_attn_varlen_func, None, utils._pad_input, utils._unpad_input,
    )  # fmt: skip
    # A batch of one row is asked whether its positions start anew in the middle; ordinary rows do not.
    utils._is_packed_sequence = lambda *_, **__: False
    try:
        yield
    finally:
        for name, value in kept.items():
            setattr(utils, name, value)


def flash_attn_func(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    deterministic: bool = False,
) -> torch.Tensor:
    """Rows of equal length.

    Raises:
        InputError: the package would refuse the data type or the width.
    """
    lengths = int(q.shape[1]), int(k.shape[1])
    return _attend(q, k, v, None, None, lengths, dropout_p, softmax_scale, causal)


def flash_attn_varlen_func(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    max_seqlen_q: Any,
    max_seqlen_k: Any,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    deterministic: bool = False,
) -> torch.Tensor:
    """Rows without their padding, one after the other; the rows' mean length stands in for their longest.

    Raises:
        InputError: the package would refuse the data type or the width.
    """
    lengths = q.shape[0] // (cu_seqlens_q.shape[0] - 1), k.shape[0] // (cu_seqlens_k.shape[0] - 1)
    return _attend(q, k, v, cu_seqlens_q, cu_seqlens_k, lengths, dropout_p, softmax_scale, causal)


def _attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    starts_q: torch.Tensor | None,
    starts_k: torch.Tensor | None,
    lengths: tuple[int, int],
    dropout_p: float,
    scale: float | None,
    causal: bool,
) -> torch.Tensor:
    width = int(q.shape[-1])
    _check(q.dtype, width)
    if padding := -width % 8:
        q, k, v = (F.pad(x, (0, padding)) for x in (q, k, v))
    out: torch.Tensor = aten._flash_attention_forward(
        q, k, v, starts_q, starts_k, *lengths, dropout_p, causal, False, scale=scale or width**-0.5
    )[0]
    return out[..., :width] if padding else out


def _check(dtype: torch.dtype, width: int) -> None:
    if dtype not in (torch.float16, torch.bfloat16):
        raise InputError(
            f"flash_attention_2 computes in float16 or bfloat16, but gets {str(dtype).removeprefix('torch.')}",
            fix="plan with bf16 weights or bf16 mixed precision, or with sdpa",
        )
    if width > MAX_HEAD_WIDTH:
        raise InputError(
            f"flash_attention_2 takes heads of at most {MAX_HEAD_WIDTH} values, but this model's have {width}",
            fix="plan with sdpa or eager",
        )
