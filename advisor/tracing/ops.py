"""One operator of a traced step, the class that decides its speed, and the signature it can be replayed from.

Plain Python on purpose: operators are stored, shipped to worker processes and fitted without torch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

StepPhase = Literal[
    "weights", "states", "first_forward", "first_backward", "forward", "backward", "optimizer", "evaluation"
]
"""``first_…`` is the first micro-batch when gradients accumulate; it is lighter, because there are no gradients yet."""

SKINNY_INTENSITY = 48.0
"""Matrix products with fewer FLOPs than this per element moved are "skinny": 2/(1/M + 1/N + 1/K) < 48 holds when
the smallest side is under about 24-32: such a product streams its operands (LoRA ranks, small heads)."""

MEMBERS = {
    "gemm": "mm addmm linear _addmm_activation mkldnn_linear _scaled_mm _grouped_mm dot mv addmv",
    "bmm": "bmm baddbmm",
    "conv": "convolution convolution_backward mkldnn_convolution",
    "gemm_4bit": "gemm_4bit gemv_4bit",
    "quantization": "dequantize_4bit quantize_4bit dequantize_blockwise quantize_blockwise",
    "softmax": "_softmax _log_softmax _softmax_backward_data _log_softmax_backward_data _safe_softmax",
    "rng": "native_dropout bernoulli bernoulli_ rand randn rand_like randn_like uniform_ normal_",
    "transcendental": "gelu gelu_backward tanh tanh_backward sigmoid sigmoid_backward silu silu_backward exp"
    " log sin cos"
    " erf pow sqrt rsqrt softplus softplus_backward log_sigmoid_forward log_sigmoid_backward elu elu_backward mish"
    " mish_backward",
    "embedding": "embedding embedding_dense_backward _embedding_bag embedding_renorm_",
    "index": "index index_put index_put_ _index_put_impl_ index_select index_add index_add_ index_copy gather scatter"
    " scatter_ scatter_add scatter_add_ nll_loss_forward nll_loss_backward nll_loss2d_forward nll_loss2d_backward"
    " masked_fill masked_fill_ masked_scatter masked_select nonzero where topk sort argsort cumsum argmax roll"
    " flip tril"
    " triu one_hot",
    "reduction": "sum mean var var_mean std amax amin max min norm linalg_vector_norm any all count_nonzero logsumexp"
    " aminmax",
    "copy": "copy_ _to_copy clone cat stack repeat constant_pad_nd contiguous select_backward slice_backward"
    " expand_copy"
    " split_copy view_copy repeat_interleave slice_scatter select_scatter as_strided_scatter",
    "fill": "zeros ones full zeros_like ones_like full_like new_zeros new_ones new_full fill_ zero_ fill arange"
    " scalar_tensor eye linspace",
    "allocation": "empty empty_like new_empty empty_strided new_empty_strided",
}
"""Operators by class, for those that their name alone decides."""

CLASS_OF = {name: kind for kind, names in MEMBERS.items() for name in names.split()}
CAUSAL = "causal"
"""Stands in place of the overload of an attention kernel that skips the keys after each query; the FLOPs that are
counted for it include them."""
NORMALISATIONS = ("layer_norm", "rms_norm", "group_norm", "batch_norm")
ATTENTION = ("scaled_dot_product", "flash_attention", "efficient_attention")
UPDATES = ("adam", "sgd", "adagrad", "lion")


@dataclass(frozen=True)
class TracedOp:
    """One dispatched operator with concrete sizes.

    Attributes:
        name: Schema name and overload without the namespace, for example ``"addmm.default"``.
        phase: Part of the step it belongs to.
        flops: Floating-point operations, a multiply-add counted as two.
        read_bytes: Of all tensor arguments; a broadcast (stride 0) dimension counts once.
        written_bytes: Of all results and of arguments written in place.
        dtype: Data type of the first floating-point argument, for example ``"float32"``; ``"int"`` without one.
        signature: What ``encode_signature`` made of the call; empty when the sizes were inferred and not traced.
        count: How many such calls the step makes.
    """

    name: str
    phase: StepPhase
    flops: int
    read_bytes: int
    written_bytes: int
    dtype: str
    signature: str = ""
    count: int = 1

    @property
    def moved_bytes(self) -> int:
        return self.read_bytes + self.written_bytes

    @property
    def base_name(self) -> str:
        """The schema name without its overload: ``"addmm"``."""
        return self.name.split(".", 1)[0]


def skips_keys(name: str) -> bool:
    """Whether it is the name of an attention kernel that skips what lies above the diagonal."""
    return name.endswith(f".{CAUSAL}")


ITEM_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2, "float8_e4m3fn": 1, "int": 8}


def op_class(op: TracedOp) -> str:
    """The class whose speed an operator shares.

    Returns:
        One of ``gemm``, ``gemm_skinny``, ``bmm``, ``conv``, ``gemm_4bit``, ``quantization``, ``attention``,
        ``attention_backward``, ``norm``, ``softmax``, ``rng``, ``transcendental``, ``embedding``, ``index``,
        ``reduction``, ``copy``, ``fill``, ``allocation``, ``optimizer_fused``, ``optimizer_foreach``, ``elementwise``.
    """
    kind = usual_class(op.base_name)
    return (
        "gemm_skinny" if kind == "gemm" and is_skinny(op.flops, op.moved_bytes / ITEM_BYTES.get(op.dtype, 4)) else kind
    )


def is_skinny(flops: Any, moved_elements: Any) -> Any:
    """Whether matrix products are ``gemm_skinny``; of numbers or of arrays."""
    return (flops < SKINNY_INTENSITY * moved_elements) | (flops < SKINNY_INTENSITY)


def usual_class(name: str) -> str:
    """The class of operators with this ``base_name``; of matrix products the one that is not skinny."""
    kind = CLASS_OF.get(name)
    if kind is not None:
        return kind
    if any(part in name for part in ATTENTION):
        return "attention_backward" if "backward" in name else "attention"
    if name.startswith("_fused") and any(part in name for part in UPDATES):
        return "optimizer_fused"
    if name.startswith(("_foreach", "_amp_foreach")):
        return "optimizer_foreach"
    return "norm" if any(part in name for part in NORMALISATIONS) else "elementwise"


def class_key(op: TracedOp) -> str:
    """Row of the class table, from the general to the special: class, data type, operator
    (``"gemm/float32/addmm"``).
    """
    return f"{op_class(op)}/{op.dtype}/{op.base_name}"


def encode_signature(func: Any, args: Any, kwargs: Any) -> str:
    """A call as text: the operator and its arguments, with every tensor reduced to shape, strides and data type.

    Args:
        func: A ``torch._ops.OpOverload``.
        args: Positional arguments of the dispatched call; concrete integer sizes.
        kwargs: Its keyword arguments.

    Returns:
        JSON ``[operator, args, kwargs]``; equal texts mean equal work. Arguments that are neither tensors nor plain
        values (a generator, a device) are written as ``null``, which is their default on replay.
    """
    return json.dumps([str(func), _encode(args), _encode(kwargs)], separators=(",", ":"))


def _encode(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_encode(item) for item in value]
    if isinstance(value, dict):
        return {
            key: _encode(item)
            for key, item in value.items()
            if key not in ("device", "layout", "pin_memory", "generator")
        }
    if hasattr(value, "untyped_storage"):
        return {"tensor": [list(value.shape), list(value.stride()), str(value.dtype).removeprefix("torch.")]}
    text = str(value)
    if text.startswith("torch.") and "(" not in text and " " not in text:
        return {"torch": text.removeprefix("torch.")}
    return None
