"""Qwen's step of 2023 as its own kernels and PEFT's of the time ran it; time needs what memory's peak does not.

* Rotary embeddings by flash-attn's fused kernel, between two conversions to and from float32 (modeling_qwen.py,
  ``apply_rotary_pos_emb``; the profile states flash attention 2, whose package has it). Its RMS norm needs an extension
  that the README calls optional, so the norms stay as they are.
* Adapters in the weights' data type, as PEFT of 2023 created them (``LoraLayer.update_layer`` of 0.5 to 0.7; float32
  adapters beside 16-bit weights came with ``autocast_adapter_dtype`` in 2024).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from advisor.core.model import Task
from advisor.core.strategy import StrategyConfig
from advisor.strategies.lora import Lora
from advisor.strategies.peft import AnyPeft
from tests.costmodel.published.litgpt import LitAttention
from tests.costmodel.published.qwen import Qwen1Config, Qwen1ForCausalLM


class FusedRotary(torch.autograd.Function):
    """One kernel each way that reads and writes its input once; any elementwise operator has the same traffic."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.neg()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return gradients[0].neg()


class QwenAttention(LitAttention):
    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        c, (rows, length, width) = self.config, x.shape
        parts = [part.view(rows, length, c.num_attention_heads, -1) for part in self.attn(x).split(width, dim=2)]
        query, key = (FusedRotary.apply(part.float()).type_as(part) for part in parts[:2])  # type: ignore[no-untyped-call]
        heads = (part.transpose(1, 2) for part in (query, key, parts[2]))
        mixed = F.scaled_dot_product_attention(*heads, is_causal=True)
        return self.proj(mixed.transpose(1, 2).reshape(rows, length, width))  # type: ignore[no-any-return]


class QwenKernelsConfig(Qwen1Config):
    model_type = "qwen-1-kernels"

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)


class QwenKernelsForCausalLM(Qwen1ForCausalLM):
    config_class = QwenKernelsConfig

    def __init__(self, config: QwenKernelsConfig) -> None:
        super().__init__(config)
        for block in self.transformer.h:
            block.attn.__class__ = QwenAttention


def _in_the_weights_type(model: nn.Module) -> nn.Module:
    dtype = next(parameter.dtype for name, parameter in model.named_parameters() if "lora_" not in name)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(dtype)
    return model


class EarlyLora(Lora):
    """LoRA of PEFT in 2023."""

    name = "early_lora"

    def apply(self, model: nn.Module, config: StrategyConfig, task: Task, *, quantized: bool = False) -> nn.Module:
        return _in_the_weights_type(super().apply(model, config, task, quantized=quantized))


class EarlyPeft(AnyPeft):
    """Any PEFT configuration, in 2023."""

    name = "early_peft"

    def apply(self, model: nn.Module, config: StrategyConfig, task: Task, *, quantized: bool = False) -> nn.Module:
        return _in_the_weights_type(super().apply(model, config, task, quantized=quantized))


ENTRY_POINTS = tuple(f"{method.name} = {__name__}:{method.__name__}" for method in (EarlyLora, EarlyPeft))


def register() -> None:
    """Make the architecture known to transformers' auto classes."""
    AutoConfig.register(QwenKernelsConfig.model_type, QwenKernelsConfig, exist_ok=True)
    AutoModelForCausalLM.register(QwenKernelsConfig, QwenKernelsForCausalLM, exist_ok=True)
