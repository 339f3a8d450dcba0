"""Qwen's profiling table, and the model code of 2023 behind it and behind ms-swift's benchmark.

github.com/QwenLM/Qwen, README "Profiling of Memory and Speed" (commit 2df8e8a): one A100-SXM4-80GB, CUDA 11.8, torch
2.0, flash attention 2, batch 1, accumulation 8, rows of exactly the stated length; LoRA r=64 on all linear layers,
checkpointing and bf16 by its finetune scripts. How memory was read is not stated: "GB" is taken as the GiB that
``nvidia-smi`` shows, reserved plus context, and the context as what transformers' guide measured on its machine a year
before (the driver then loaded every kernel of every library at once). Left out: full fine-tuning and Q-LoRA, whose
scripts run under DeepSpeed ZeRO-2 (float32 master weights, GPTQ weights), and everything on several cards.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin
from transformers.modeling_outputs import CausalLMOutput

from tests.costmodel.published.encoders import GUIDE_CONTEXT_MIB
from tests.costmodel.published.figures import GIB, MIB, Figure
from tests.costmodel.published.litgpt import LitConfig, LitForCausalLM


class Qwen1Config(LitConfig):
    model_type = "qwen-1"

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)


class Qwen1ForCausalLM(LitForCausalLM, GenerationMixin):
    """The same blocks with the loss of 2023: logits are shifted by a copy, and the outputs return in full."""

    config_class = Qwen1Config
    accepts_loss_kwargs = False

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **ignored: Any,
    ) -> CausalLMOutput:
        logits = self.lm_head(self.transformer(input_ids))
        if labels is None:
            return CausalLMOutput(logits=logits)
        shifted = logits[..., :-1, :].contiguous()
        targets = labels[..., 1:].contiguous()
        loss = F.cross_entropy(shifted.view(-1, shifted.size(-1)), targets.view(-1))
        return CausalLMOutput(loss=loss, logits=logits)


def register() -> None:
    """Make the architecture known to transformers' auto classes."""
    AutoConfig.register(Qwen1Config.model_type, Qwen1Config, exist_ok=True)
    AutoModelForCausalLM.register(Qwen1Config, Qwen1ForCausalLM, exist_ok=True)


def _model(width: int, layers: int, heads: int, inner: int, vocab: int) -> dict[str, Any]:
    return {
        "model_type": "qwen-1",
        "vocab_size": vocab,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": inner,
        "rotary_percentage": 1.0,
        "rope_dtype": "float32",
        "parallel_residual": False,
        "norm": "rms",
        "norm_in_float32": True,
        "mlp": "llama",
        "bias": False,
        "attention_bias": True,
        "max_position_embeddings": 32768,
    }


MODELS = {
    "Qwen-1.8B": _model(2048, 24, 16, 5504, 151936),
    "Qwen-7B": _model(4096, 32, 32, 11008, 151936),
    "Qwen-14B": _model(5120, 40, 40, 13696, 152064),
}
LENGTHS = (256, 512, 1024, 2048, 4096, 8192)
EXECUTION = {
    "dtype": "bfloat16",
    "amp": "bf16",
    "padded": False,
    "optim": "adamw_torch",
    "gradient_checkpointing": True,
    "reentrant_checkpointing": True,
    "gradient_accumulation_steps": 8,
}
LORA = {"r": 64, "lora_alpha": 16, "lora_dropout": 0.05, "target_modules": "all-linear"}


TWO_TEMPORARIES = (
    "the optimizer's step is the peak, and torch 2.0's foreach AdamW took a second copy of the trained parameters "
    "(sqrt, then + eps) that torch 2.1 and later save by adding in place"
)
OPTIMIZER_PEAK_UP_TO = 1024
"""Tokens; above, the loss is the peak of the rows that train embeddings and head."""
ALLOCATOR_AT_4096 = (
    "reserved, not live, memory: the source's own rows step by 5.2 GiB from 2,048 to 4,096 tokens and by 5.6 from "
    "4,096 to 8,192, though every live tensor doubles; the rows before and after are within 8 %"
)


def _adapter_parameters(model: dict[str, Any], rank: int = 64) -> int:
    """LoRA on the fused projection, the output projection and the three of the MLP."""
    width, inner = model["hidden_size"], model["intermediate_size"]
    return int(model["num_hidden_layers"] * rank * (4 * width + 2 * width + 3 * (width + inner)))


def _second_temporary_bytes(model: dict[str, Any]) -> int:
    """Adapters train in float32, the copies of embedding and head in bfloat16."""
    return 4 * _adapter_parameters(model) + 2 * 2 * model["vocab_size"] * model["hidden_size"]


def _reason(name: str, method: str, length: int) -> dict[str, Any]:
    if method == "peft" and length <= OPTIMIZER_PEAK_UP_TO:
        return {"explanation": TWO_TEMPORARIES, "explained_bytes": _second_temporary_bytes(MODELS[name])}
    if name == "Qwen-1.8B" and method == "lora" and length == 4096:
        return {"explanation": ALLOCATOR_AT_4096}
    return {}


def _rows(name: str, label: str, method: str, knobs: dict[str, Any], gib: tuple[float, ...]) -> list[Figure]:
    return [
        Figure(
            label=f"{name} {label}, {length}",
            measured_bytes=peak * GIB,
            model=MODELS[name],
            method=method,
            knobs=knobs,
            batch=1,
            length=length,
            execution=EXECUTION,
            quantity="reserved_bytes",
            added_bytes=GUIDE_CONTEXT_MIB * MIB,
            slow=(name, method) != ("Qwen-7B", "lora"),
            **_reason(name, method, length),
        )
        for length, peak in zip(LENGTHS, gib, strict=True)
    ]


_LORA: dict[str, Any] = {"rank": 64, "lora_alpha": 16, "lora_dropout": 0.05, "target_modules": "all-linear"}
_WITH_HEAD: dict[str, Any] = {"peft_config": {"peft_type": "LORA", **LORA, "modules_to_save": ["wte", "lm_head"]}}

PROFILE = [
    *_rows("Qwen-1.8B", "LoRA", "lora", _LORA, (6.7, 7.4, 8.4, 11.0, 16.2, 21.8)),
    *_rows("Qwen-7B", "LoRA", "lora", _LORA, (20.1, 20.4, 21.5, 23.8, 29.7, 36.6)),
    *_rows("Qwen-14B", "LoRA", "lora", _LORA, (34.6, 35.1, 35.3, 37.4, 42.5, 55.2)),
    *_rows("Qwen-1.8B", "LoRA (emb)", "peft", _WITH_HEAD, (13.7, 14.0, 14.0, 15.1, 19.7, 27.7)),
    *_rows("Qwen-7B", "LoRA (emb)", "peft", _WITH_HEAD, (33.7, 34.1, 35.2, 35.1, 39.2, 48.5)),
    *_rows("Qwen-14B", "LoRA (emb)", "peft", _WITH_HEAD, (51.2, 51.1, 51.5, 54.1, 56.8, 67.7)),
]
