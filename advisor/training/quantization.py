"""4-bit storage of frozen linear layers with bitsandbytes: while loading, on a built model, and under fake tensors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from advisor.core.strategy import Quantization
from advisor.strategies.targets import is_conv1d, linear_shape
from advisor.training.hub import forbid_kernel_downloads

forbid_kernel_downloads()

import bitsandbytes as bnb  # noqa: E402  (after the line that keeps it from downloading)
from bitsandbytes.functional import QuantState  # noqa: E402

BLOCK_SIZE = 64
"""Weights that share one scale: the default of bitsandbytes and of Dettmers et al. 2023, section 3."""

NESTED_BLOCK_SIZE = 256
"""Scales that share one scale of scales under double quantisation (same source)."""

CODE_ENTRIES = {"weights": 16, "scales": 256}
"""Entries of the 4-bit code book and of the 8-bit code book of the scales."""


def bitsandbytes_config(quantization: Quantization, skip_modules: Iterable[str]) -> Any:
    """The transformers configuration that quantises while loading.

    Args:
        quantization: What to store how.
        skip_modules: Full names of modules that keep their data type. Always given: with ``None`` transformers also
            quantises a freshly initialised classifier.
    """
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization.quant_type,
        bnb_4bit_use_double_quant=quantization.double_quant,
        bnb_4bit_compute_dtype=getattr(torch, quantization.compute_dtype),
        llm_int8_skip_modules=list(skip_modules),
    )


def quantize_linears(model: nn.Module, quantization: Quantization, names: Iterable[str]) -> nn.Module:
    """Replace linear layers of a built model by 4-bit ones, in place, as loading with 4 bits would have left it.

    Args:
        model: With its weights, or fake.
        quantization: What to store how.
        names: Full names of the layers to replace. Fake parameters get a stand-in of the same shapes and types.
    """
    for name in names:
        linear = model.get_submodule(name)
        parent, _, child = name.rpartition(".")
        replacement = StandInLinear4bit(linear, quantization) if _is_fake(linear) else _quantized(linear, quantization)
        setattr(model.get_submodule(parent) if parent else model, child, replacement)
    model.requires_grad_(False)
    model.is_loaded_in_4bit = True
    return model


def keep_unpacked_on_cpu(model: nn.Module) -> int:
    """Keep bitsandbytes from re-packing weights for CPU inference.

    On CPUs with AVX512-BF16 an evaluation forward re-packs them; the next training forward then raises on layers with
    bias and silently loses the input's gradient on layers without.

    Returns:
        How many layers were told.
    """
    layers = [module for module in model.modules() if isinstance(module, bnb.nn.Linear4bit)]
    for layer in layers:
        layer.support_avx512bf16_for_cpu = False
    return len(layers)


def settle_biases(model: nn.Module) -> None:
    """Store the biases of 4-bit layers in the type that these compute in, as their first forward pass does for good.

    Source: ``bitsandbytes.nn.Linear4bit.forward``, which assigns ``bias.data = bias.data.to(x.dtype)``.
    """
    for layer in model.modules():
        if isinstance(layer, bnb.nn.Linear4bit) and layer.bias is not None and layer.compute_dtype is not None:
            layer.bias.data = layer.bias.data.to(layer.compute_dtype)


def _is_fake(linear: nn.Module) -> bool:
    return isinstance(linear.weight, FakeTensor) or linear.weight.device.type == "meta"


def _quantized(linear: Any, quantization: Quantization) -> nn.Module:
    in_features, out_features = linear_shape(linear)
    layer = bnb.nn.Linear4bit(
        in_features,
        out_features,
        bias=linear.bias is not None,
        compute_dtype=getattr(torch, quantization.compute_dtype),
        compress_statistics=quantization.double_quant,
        quant_type=quantization.quant_type,
        device="meta",
    )
    weight = linear.weight.data.T.contiguous() if is_conv1d(linear) else linear.weight.data
    layer.weight = bnb.nn.Params4bit(
        weight,
        requires_grad=False,
        compress_statistics=quantization.double_quant,
        quant_type=quantization.quant_type,
        module=layer,
    ).to(weight.device)
    layer.bias = linear.bias
    return layer


class StandInLinear4bit(bnb.nn.Linear4bit):
    """A 4-bit layer of fake tensors, with bitsandbytes' own forward and backward.

    ``Params4bit`` is a tensor subclass and cannot wrap a fake tensor; a plain uint8 parameter with a fake quantisation
    state has the same storages and meets the same operators, for which bitsandbytes registers fake kernels.
    """

    def __init__(self, linear: Any, quantization: Quantization) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear_shape(linear)
        self.weight = _packed_weight(linear, quantization)
        self.bias = linear.bias
        self.compute_dtype = getattr(torch, quantization.compute_dtype)
        self.compute_type_is_set = True
        self.quant_state = self.weight.quant_state
        self.quant_storage = torch.uint8
        self.support_avx512bf16_for_cpu = False


def _packed_weight(linear: Any, quantization: Quantization) -> Any:
    in_features, out_features = linear_shape(linear)
    device, dtype = linear.weight.device, linear.weight.dtype
    values = out_features * in_features
    blocks = -(-values // BLOCK_SIZE)
    nested = quantization.double_quant

    def empty(*shape: Any, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(*shape, dtype=dtype, device=device)

    scales_of_scales = QuantState(
        absmax=empty(-(-blocks // NESTED_BLOCK_SIZE)),
        code=empty(CODE_ENTRIES["scales"]),
        blocksize=NESTED_BLOCK_SIZE,
        dtype=torch.float32,
    )
    weight: Any = nn.Parameter(empty((values + 1) // 2, 1, dtype=torch.uint8), requires_grad=False)
    weight.quant_state = QuantState(
        absmax=empty(blocks, dtype=torch.uint8 if nested else torch.float32),
        shape=torch.Size((out_features, in_features)),
        code=empty(CODE_ENTRIES["weights"]),
        blocksize=BLOCK_SIZE,
        quant_type=quantization.quant_type,
        dtype=dtype,
        offset=empty(()) if nested else None,
        state2=scales_of_scales if nested else None,
    )
    weight.compress_statistics = nested
    weight.quant_type = quantization.quant_type
    weight.blocksize = BLOCK_SIZE
    weight.bnb_quantized = True
    return weight
