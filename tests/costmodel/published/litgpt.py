"""LitGPT's fine-tuning step as its scripts run it, so that its published peaks can be predicted operator by operator.

LitGPT trains its own transformer, not transformers' classes: one fused projection for query, key and value, norms in
the activations' type, adapters in bfloat16 (PEFT's are float32), the head and the loss in chunks of 128 tokens, logits
converted to float32 by Fabric and held until the next step. Written from the published code's behaviour
(github.com/Lightning-AI/litgpt, October 2023 and April 2024); reached through the same doors as anybody's architecture
(transformers' auto classes) and method (the entry point group ``advisor.strategies``).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import CausalLMOutput


class LitConfig(PreTrainedConfig):
    """Sizes under transformers' names; ``vocab_size`` is LitGPT's padded one."""

    model_type = "lit-gpt"
    use_cache = False

    def __init__(
        self,
        vocab_size: int = 512,
        hidden_size: int = 64,
        num_hidden_layers: int = 4,
        num_attention_heads: int = 4,
        num_key_value_heads: int | None = None,
        head_dim: int | None = None,
        intermediate_size: int = 256,
        norm: str = "layer",
        norm_in_float32: bool = False,
        mlp: str = "neox",
        bias: bool = True,
        attention_bias: bool | None = None,
        lm_head_bias: bool = False,
        parallel_residual: bool = True,
        shared_attention_norm: bool = False,
        rotary_percentage: float = 0.25,
        rope_dtype: str = "float16",
        scale_embeddings: bool = False,
        tie_word_embeddings: bool = False,
        logit_chunks: int = 8,
        max_position_embeddings: int = 4096,
        **rest: Any,
    ) -> None:
        super().__init__(tie_word_embeddings=tie_word_embeddings, **rest)
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads or num_attention_heads
        self.head_dim = head_dim or hidden_size // num_attention_heads
        self.intermediate_size = intermediate_size
        self.norm, self.norm_in_float32, self.mlp = norm, norm_in_float32, mlp
        self.bias, self.lm_head_bias = bias, lm_head_bias
        self.attention_bias = bias if attention_bias is None else attention_bias
        self.parallel_residual, self.shared_attention_norm = parallel_residual, shared_attention_norm
        self.rotary_percentage, self.rope_dtype = rotary_percentage, rope_dtype
        self.scale_embeddings = scale_embeddings
        self.logit_chunks = logit_chunks
        self.max_position_embeddings = max_position_embeddings


class LitRMSNorm(nn.Module):
    """In the activations' own type (2023), or in float32 and back (2024)."""

    def __init__(self, config: LitConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(config.hidden_size))
        self.in_float32 = config.norm_in_float32

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dtype = x.dtype
        if self.in_float32:
            x = x.float()
        normed = x * torch.rsqrt(torch.mean(x * x, dim=-1, keepdim=True) + 1e-5)
        return normed.to(dtype) * self.weight if self.in_float32 else self.weight * normed


def _norm(config: LitConfig) -> nn.Module:
    return nn.LayerNorm(config.hidden_size) if config.norm == "layer" else LitRMSNorm(config)


class LitMLP(nn.Module):
    def __init__(self, config: LitConfig) -> None:
        super().__init__()
        sizes = config.hidden_size, config.intermediate_size
        self.gate = None if config.mlp == "neox" else nn.Linear(*sizes, bias=config.bias)
        self.fc = nn.Linear(*sizes, bias=config.bias)
        self.proj = nn.Linear(*sizes[::-1], bias=config.bias)
        self.activation = F.silu if config.mlp == "llama" else F.gelu

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.gate is None:
            return self.proj(self.activation(self.fc(x)))
        gated, inner = self.gate(x), self.fc(x)
        return self.proj(self.activation(gated) * inner)


class LitAttention(nn.Module):
    def __init__(self, config: LitConfig) -> None:
        super().__init__()
        self.config = config
        heads = config.num_attention_heads + 2 * config.num_key_value_heads
        self.attn = nn.Linear(config.hidden_size, heads * config.head_dim, bias=config.attention_bias)
        self.proj = nn.Linear(config.num_attention_heads * config.head_dim, config.hidden_size, bias=config.bias)
        self.rotary = int(config.rotary_percentage * config.head_dim)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        c, (rows, length, _) = self.config, x.shape
        per_group = c.num_attention_heads // c.num_key_value_heads
        groups = self.attn(x).view(rows, length, c.num_key_value_heads, per_group + 2, c.head_dim)
        query, key, value = groups.permute(0, 2, 3, 1, 4).split((per_group, 1, 1), dim=2)
        if c.num_key_value_heads != c.num_attention_heads:
            wide = (rows, c.num_key_value_heads, per_group, length, c.head_dim)
            key, value = key.expand(wide), value.expand(wide)
        query, key, value = (part.reshape(rows, -1, length, c.head_dim) for part in (query, key, value))
        query, key = (
            torch.cat((_rotated(part[..., : self.rotary], cos, sin), part[..., self.rotary :]), dim=-1)
            for part in (query, key)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.proj(mixed.transpose(1, 2).reshape(rows, length, -1))


def _rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    half = x.size(-1) // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return (x * cos + turned * sin).to(x.dtype)


class LitBlock(GradientCheckpointingLayer):
    def __init__(self, config: LitConfig) -> None:
        super().__init__()
        self.parallel = config.parallel_residual
        self.norm_1 = _norm(config)
        self.attn = LitAttention(config)
        self.norm_2 = None if config.shared_attention_norm else _norm(config)
        self.mlp = LitMLP(config)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        normed = self.norm_1(x)
        mixed = self.attn(normed, cos, sin)
        if self.parallel:
            normed = normed if self.norm_2 is None else self.norm_2(x)
            return self.mlp(normed) + mixed + x
        x = mixed + x
        return self.mlp(self.norm_2(x)) + x  # type: ignore[misc]


class LitPreTrained(PreTrainedModel):
    config_class = LitConfig
    base_model_prefix = "transformer"
    supports_gradient_checkpointing = True
    _supports_sdpa = True


class LitModel(LitPreTrained):
    def __init__(self, config: LitConfig) -> None:
        super().__init__(config)
        self.wte = nn.Embedding(config.vocab_size, config.hidden_size)
        self.h = nn.ModuleList(LitBlock(config) for _ in range(config.num_hidden_layers))
        self.ln_f = _norm(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.wte

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        c = self.config
        rotary = int(c.rotary_percentage * c.head_dim)
        angles = torch.zeros(input_ids.shape[1], rotary, device=input_ids.device, dtype=getattr(torch, c.rope_dtype))
        cos, sin = angles.cos(), angles.sin()
        x = self.wte(input_ids)
        if c.scale_embeddings:
            x = x * c.hidden_size**0.5
        for block in self.h:
            x = block(x, cos, sin)
        return self.ln_f(x)


class LitForCausalLM(LitPreTrained):
    def __init__(self, config: LitConfig) -> None:
        super().__init__(config)
        self.transformer = LitModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=config.lm_head_bias)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, labels: torch.Tensor | None = None
    ) -> CausalLMOutput:
        hidden = self.transformer(input_ids)
        chunks = self.config.logit_chunks if self.training else 1
        logits = [self.lm_head(part) for part in hidden.tensor_split(chunks, dim=1)]
        del hidden
        logits = [part.float() for part in logits]
        if labels is None:
            return CausalLMOutput(logits=logits)
        targets = F.pad(labels[:, 1:], (0, 1), value=-100).tensor_split(chunks, dim=1)
        losses = [
            F.cross_entropy(part.reshape(-1, part.size(-1)), target.reshape(-1), reduction="none")
            for part, target in zip(logits, targets, strict=True)
        ]
        return CausalLMOutput(loss=torch.cat(losses).mean(), logits=logits)


def register() -> None:
    """Make the architecture known to transformers' auto classes."""
    AutoConfig.register(LitConfig.model_type, LitConfig, exist_ok=True)
    AutoModelForCausalLM.register(LitConfig, LitForCausalLM, exist_ok=True)
