"""LitGPT's LoRA, also on 4-bit weights of bitsandbytes 0.41, as methods that another package would add."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from advisor.core.model import ModelSpec, Task
from advisor.core.strategy import Quantization, StrategyConfig
from advisor.strategies.base import Dimension, Strategy
from advisor.strategies.lora import LoraKnobs
from tests.costmodel.published.litgpt import LitConfig


class EarlyMatmul4Bit(torch.autograd.Function):
    """bitsandbytes 0.41's product with a 4-bit weight: it keeps its input although no gradient needs it (later versions
    do not), and Fabric's plug-in quantises from float16, so that each de-quantised weight exists twice for a moment.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, linear: Any) -> torch.Tensor:
        ctx.linear, ctx.kept = linear, x
        return F.linear(x, _dequantized(linear, x.dtype), linear.bias)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        (gradient,) = gradients
        return torch.matmul(gradient, _dequantized(ctx.linear, gradient.dtype)), None


def _dequantized(linear: Any, dtype: torch.dtype) -> torch.Tensor:
    from bitsandbytes.functional import dequantize_4bit

    weight: torch.Tensor = dequantize_4bit(linear.weight, linear.weight.quant_state)
    return weight.to(dtype)


class EarlyLinear4Bit(nn.Module):
    """A 4-bit layer of bitsandbytes 0.41 around today's packed weight."""

    def __init__(self, linear: Any) -> None:
        super().__init__()
        self.linear = linear
        linear.weight.quant_state.dtype = torch.float16

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = EarlyMatmul4Bit.apply(x, self.linear)
        return result


class LitLora(nn.Module):
    """Adapter of one linear layer: ``x A B`` on top of the frozen product, everything in the weights' type."""

    def __init__(
        self, linear: nn.Module, shape: tuple[int, int], rank: int, dropout: float, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.linear, self.dropout = linear, nn.Dropout(dropout)
        device = next(linear.parameters()).device
        self.lora_A = nn.Parameter(torch.empty(rank, shape[0], dtype=dtype, device=device))
        self.lora_B = nn.Parameter(torch.empty(shape[1], rank, dtype=dtype, device=device))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        frozen = self.linear(x)
        return frozen + (self.dropout(x) @ self.lora_A.T @ self.lora_B.T) * 2.0


class LitLoraQKV(nn.Module):
    """Adapter of the fused projection, for query and value (``parts`` 2) or all three, by grouped convolutions.

    The update is scattered into a tensor as wide as the projection unless all three parts learn.
    """

    def __init__(self, linear: nn.Module, config: LitConfig, rank: int, dropout: float, dtype: torch.dtype, parts: int):
        super().__init__()
        self.linear, self.dropout = linear, nn.Dropout(dropout)
        query = config.num_attention_heads * config.head_dim
        other = config.num_key_value_heads * config.head_dim
        self.widths = [query, *([other] * (parts - 1))]
        self.full_width = query + 2 * other
        device = next(linear.parameters()).device
        self.lora_A = nn.Parameter(torch.empty(parts * rank, config.hidden_size, dtype=dtype, device=device))
        self.lora_B = nn.Parameter(torch.empty(sum(self.widths), rank, dtype=dtype, device=device))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        frozen = self.linear(x)
        low = F.linear(self.dropout(x), self.lora_A).transpose(-2, -1)
        update = self._convolved(low, self.lora_B.unsqueeze(-1)).transpose(-2, -1)
        return frozen + self._scattered(update) * 2.0

    def _convolved(self, low: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        parts = len(self.widths)
        if len(set(self.widths)) == 1:
            return F.conv1d(low, weight, groups=parts)
        pairs = zip(low.chunk(parts, dim=1), weight.split(self.widths), strict=True)
        return torch.cat([F.conv1d(a, b) for a, b in pairs], dim=1)

    def _scattered(self, update: torch.Tensor) -> torch.Tensor:
        if sum(self.widths) == self.full_width:
            return update
        rows, length, _ = update.shape
        where = torch.arange(sum(self.widths), device=update.device)
        flat = update.new_zeros(rows * length, self.full_width)
        return flat.index_copy(1, where, update.reshape(rows * length, -1)).view(rows, length, self.full_width)


class LitGptLora(Strategy):
    """LitGPT's LoRA: on query and value (``attention``) or on every linear layer (``all-linear``)."""

    name = "litgpt_lora"
    knobs = LoraKnobs
    trains_base_weights = False
    stateful = False
    title = "LoRA as LitGPT builds it"
    defaults_source = "github.com/Lightning-AI/litgpt, finetune/lora.py"
    quantization_type: Quantization | None = None

    def default_config(self, model: ModelSpec) -> StrategyConfig:
        knobs = LoraKnobs(lora_alpha=16, lora_dropout=0.05)
        return StrategyConfig(self.name, 3e-4, knobs=knobs, max_grad_norm=0.0)

    def uneven_layers(self, config: StrategyConfig) -> int | None:
        return 0

    def search_space(self, model: ModelSpec) -> dict[str, Dimension]:
        return {}

    def quantization(self, config: StrategyConfig) -> Quantization | None:
        return self.quantization_type

    def apply(self, model: nn.Module, config: StrategyConfig, task: Task, *, quantized: bool = False) -> nn.Module:
        base: Any = model
        if self.quantization_type is not None:
            from advisor.training.quantization import quantize_linears

            # Fabric's plug-in replaces every linear layer, the head too.
            quantize_linears(model, self.quantization_type, ["lm_head"])
            for name in [name for name, module in model.named_modules() if hasattr(module, "quant_state")]:
                parent, _, child = name.rpartition(".")
                setattr(model.get_submodule(parent), child, EarlyLinear4Bit(model.get_submodule(name)))
        base.requires_grad_(False)
        knobs = LoraKnobs.of(config)
        everywhere = knobs.target_modules == "all-linear"
        rank, dropout, dtype = knobs.rank, knobs.lora_dropout, base.transformer.wte.weight.dtype
        c = base.config
        for block in base.transformer.h:
            block.attn.attn = LitLoraQKV(block.attn.attn, c, rank, dropout, dtype, 3 if everywhere else 2)
            if everywhere:
                block.attn.proj = LitLora(
                    block.attn.proj, (c.num_attention_heads * c.head_dim, c.hidden_size), rank, dropout, dtype
                )
                for name in ("gate", "fc", "proj"):
                    linear = getattr(block.mlp, name)
                    shape = (c.hidden_size, c.intermediate_size)
                    if linear is not None:
                        adapted = LitLora(linear, shape[::-1] if name == "proj" else shape, rank, dropout, dtype)
                        setattr(block.mlp, name, adapted)
        if everywhere:
            base.lm_head = LitLora(base.lm_head, (c.hidden_size, c.vocab_size), rank, dropout, dtype)
        return model

    def declared_trainable(self, model: nn.Module, config: StrategyConfig) -> set[str]:
        return {name for name, _ in model.named_parameters() if "lora_" in name}


class LitGptLoraNf4(LitGptLora):
    name = "litgpt_lora_nf4"
    stores_4bit_weights = True
    quantization_type = Quantization("nf4", double_quant=False, compute_dtype="bfloat16")


class LitGptLoraNf4Dq(LitGptLora):
    name = "litgpt_lora_nf4_dq"
    stores_4bit_weights = True
    quantization_type = Quantization("nf4", double_quant=True, compute_dtype="bfloat16")


ENTRY_POINTS = tuple(
    f"{method.name} = {__name__}:{method.__name__}" for method in (LitGptLora, LitGptLoraNf4, LitGptLoraNf4Dq)
)
