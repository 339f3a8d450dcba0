"""The grids: which configurations a validation runs, small ones first.

``cpu``: small relatives of eight architectures, a few minutes on two cores. ``cuda``: published sizes from 66M to 8B
parameters, 64 to 4096 tokens; batches near the device's capacity and beyond it are chosen from the prediction, so that
the grid suits any card. ``quick``: a few cases of either.
"""

from __future__ import annotations

from typing import Any

from advisor.experiments.validation.case import Case
from advisor.experiments.validation.record import GridName

GRIDS: tuple[GridName, ...] = ("cpu", "cpu-wide", "cuda", "quick")

BF16: dict[str, Any] = {"dtype": "bfloat16"}
AMP: dict[str, Any] = {"amp": "bf16"}
CHECKPOINTED: dict[str, Any] = {"gradient_checkpointing": True}
EAGER: dict[str, Any] = {"attn_implementation": "eager"}
FOREACH: dict[str, Any] = {"optim": "adamw_torch"}
SGD: dict[str, Any] = {"optim": "sgd"}
ADAFACTOR: dict[str, Any] = {"optim": "adafactor"}
EIGHT_BIT: dict[str, Any] = {"optim": "adamw_bnb_8bit"}
PAGED: dict[str, Any] = {"optim": "paged_adamw_8bit"}
UNPADDED: dict[str, Any] = {"padded": False}
DORA: dict[str, Any] = {"peft_config": {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "use_dora": True}}
VERA: dict[str, Any] = {"peft_config": {"peft_type": "VERA", "r": 64}}


def accumulated(steps: int) -> dict[str, Any]:
    """Micro-batches per optimizer step."""
    return {"gradient_accumulation_steps": steps}


def make_case(model: str, method: str, rows: int, length: int, *execution: dict[str, Any], **fields: Any) -> Case:
    """A case from groups of execution switches."""
    switches = {name: value for group in execution for name, value in group.items()}
    return Case(model, method, rows, length, execution=switches, **fields)


CPU = (
    make_case("distilbert-small", "full", 8, 64),
    make_case("distilbert-small", "full", 4, 128, EAGER),
    make_case("distilbert-small", "lora", 8, 128, AMP),
    make_case("distilbert-small", "head", 16, 64),
    make_case("distilbert-small", "ia3", 8, 96, CHECKPOINTED),
    make_case("bert-small", "full", 8, 64, FOREACH),
    make_case("bert-small", "full", 8, 64, SGD),
    make_case("bert-small", "full", 8, 64, ADAFACTOR),
    make_case("bert-small", "full", 4, 64, accumulated(4)),
    make_case("bert-small", "full", 8, 96, UNPADDED),
    make_case("bert-small", "full", 4, 64, AMP, task="masked-lm"),
    make_case("bert-small", "full", 4, 64, {"zero_grad_set_to_none": False}),
    make_case("bert-small", "full", 4, 64, {"hold_outputs": True}, task="masked-lm"),
    make_case("bert-small", "partial", 8, 128),
    make_case("bert-small", "partial", 8, 128, CHECKPOINTED, knobs={"unfrozen_layers": 3}),
    make_case("bert-small", "lora", 8, 128, CHECKPOINTED, knobs={"rank": 16, "target_modules": "all-linear"}),
    make_case("bert-small", "high_rank_lora", 8, 64),
    make_case("bert-small", "hira", 8, 64),
    make_case("bert-small", "sparse_lora", 8, 64),
    make_case("bert-small", "qlora", 8, 64),
    make_case("bert-small", "peft", 8, 64, knobs=VERA),
    make_case("minilm-l6", "full", 16, 64),
    make_case("minilm-l6", "lora", 16, 128, EAGER),
    make_case("minilm-l6", "lora", 16, 128, mixed_lengths=4),
    make_case("roberta-small", "full", 8, 64, AMP),
    make_case("roberta-small", "lora", 4, 256, CHECKPOINTED),
    make_case("roberta-small", "head", 8, 64, task="masked-lm"),
    make_case("deberta-small", "full", 4, 64),
    make_case("deberta-small", "lora", 4, 128, CHECKPOINTED),
    make_case("modernbert-small", "full", 4, 128),
    make_case("modernbert-small", "lora", 4, 256, AMP),
    make_case("gpt2-small", "full", 4, 64),
    make_case("gpt2-small", "lora", 4, 128, EAGER),
    make_case("gpt2-small", "partial", 4, 128, CHECKPOINTED),
    make_case("qwen2-small", "full", 4, 64, BF16),
    make_case("qwen2-small", "lora", 4, 128, AMP, CHECKPOINTED),
    make_case("qwen2-small", "full", 2, 128, {"loss": "fused-linear"}),
    make_case("llama-small", "full", 4, 64),
    make_case("llama-small", "lora", 2, 256, BF16),
    make_case("llama-small", "lora", 4, 64, {"optim": "lorafa"}),
    make_case("llama-small", "qlora", 4, 128),
    make_case("llama-small", "qlora", 4, 128, {"kbit_upcast": True}, CHECKPOINTED),
    make_case("llama-small", "ia3", 4, 128, UNPADDED),
    make_case("llama-small", "head", 8, 64, task="sequence-classification"),
    make_case("llama-small", "peft", 4, 64, knobs=DORA),
    make_case("llama-small", "full", 4, 128, CHECKPOINTED, {"reentrant_checkpointing": True}),
    make_case("mistral-small", "full", 2, 128, accumulated(2)),
    make_case("mistral-small", "hira", 4, 64, CHECKPOINTED),
    make_case("gemma2-small", "full", 2, 64, EAGER),
    make_case("gemma2-small", "lora", 2, 128),
)

CUDA = (
    make_case("distilbert-base", "full", 32, 128),
    make_case("distilbert-base", "full", 16, 512, EAGER),
    make_case("distilbert-base", "full", 32, 128, FOREACH),
    make_case("distilbert-base", "full", 32, 128, SGD),
    make_case("distilbert-base", "full", 32, 128, ADAFACTOR),
    make_case("distilbert-base", "lora", 32, 128, AMP),
    make_case("distilbert-base", "head", 64, 64),
    make_case("distilbert-base", "ia3", 32, 256),
    make_case("bert-base", "full", 16, 128, AMP),
    make_case("bert-base", "full", 32, 256, CHECKPOINTED),
    make_case("bert-base", "full", 8, 128, accumulated(4)),
    make_case("bert-base", "full", 32, 128, UNPADDED),
    make_case("bert-base", "full", 16, 512, AMP, task="masked-lm"),
    make_case("bert-base", "full", 8, 256, {"hold_outputs": True}, task="masked-lm"),
    make_case("bert-base", "full", 32, 256, mixed_lengths=6),
    make_case("bert-base", "partial", 32, 256),
    make_case("bert-base", "lora", 32, 512, AMP, CHECKPOINTED),
    make_case("bert-base", "lora", 16, 256, {"amp": "fp16"}),
    make_case("bert-base", "high_rank_lora", 16, 384),
    make_case("bert-base", "hira", 16, 128),
    make_case("bert-base", "sparse_lora", 16, 256),
    make_case("bert-base", "qlora", 32, 128),
    make_case("bert-base", "peft", 16, 256, knobs=VERA),
    make_case("gpt2", "full", 4, 512),
    make_case("gpt2", "full", 4, 512, EAGER, CHECKPOINTED),
    make_case("gpt2", "lora", 8, 1024, AMP),
    make_case("gpt2", "partial", 8, 512),
    make_case("modernbert-base", "full", 8, 512, AMP),
    make_case("modernbert-base", "full", 8, 256, EAGER),
    make_case("modernbert-base", "lora", 16, 1024, BF16),
    make_case("deberta-v3-base", "full", 8, 256),
    make_case("deberta-v3-base", "full", 8, 512, CHECKPOINTED),
    make_case("deberta-v3-base", "lora", 16, 128, AMP),
    make_case("deberta-v3-base", "partial", 16, 256),
    make_case("roberta-large", "full", 8, 256, AMP),
    make_case("roberta-large", "full", 8, 128, SGD),
    make_case("roberta-large", "full", 8, 128, EIGHT_BIT),
    make_case("roberta-large", "partial", 16, 512, AMP),
    make_case("roberta-large", "lora", 32, 256, BF16, CHECKPOINTED),
    make_case("roberta-large", "head", 32, 512),
    make_case("roberta-large", "qlora", 16, 256),
    make_case("roberta-large", "peft", 8, 256, knobs=DORA),
    make_case("roberta-large", "full", 8, 256, room=0.70),
    make_case("roberta-large", "full", 8, 256, room=0.85),
    make_case("roberta-large", "full", 8, 256, room=0.97),
    make_case("roberta-large", "full", 8, 256, room=1.20),
    make_case("bert-base", "lora", 32, 256, room=0.80),
    make_case("bert-base", "lora", 32, 256, room=1.30),
    make_case("qwen2-0.5b", "full", 2, 512, BF16),
    make_case("qwen2-0.5b", "full", 2, 512, BF16, mixed_lengths=6),
    make_case("qwen2-0.5b", "full", 4, 1024, AMP, CHECKPOINTED),
    make_case("qwen2-0.5b", "full", 2, 512, BF16, ADAFACTOR),
    make_case("qwen2-0.5b", "lora", 4, 1024, BF16),
    make_case("qwen2-0.5b", "lora", 4, 2048, BF16, {"loss": "fused-linear"}),
    make_case("qwen2-0.5b", "qlora", 4, 512),
    make_case("qwen2-0.5b", "ia3", 4, 512, BF16),
    make_case("qwen2-0.5b", "lora", 4, 1024, BF16, room=0.75),
    make_case("qwen2-0.5b", "lora", 4, 1024, BF16, room=1.20),
    make_case("llama-3.2-1b", "full", 1, 1024, BF16),
    make_case("llama-3.2-1b", "full", 1, 512, BF16, {"zero_grad_set_to_none": False}),
    make_case("llama-3.2-1b", "lora", 4, 1024, BF16, CHECKPOINTED),
    make_case("llama-3.2-1b", "lora", 4, 1024, BF16, CHECKPOINTED, mixed_lengths=6),
    make_case("llama-3.2-1b", "lora", 4, 1024, BF16, CHECKPOINTED, {"reentrant_checkpointing": True}),
    make_case("llama-3.2-1b", "lora", 2, 2048, BF16, EAGER),
    make_case("llama-3.2-1b", "lora", 1, 512, BF16, accumulated(4)),
    make_case("llama-3.2-1b", "lora", 2, 512, BF16, {"optim": "lorafa"}),
    make_case("llama-3.2-1b", "high_rank_lora", 2, 1024, BF16),
    make_case("llama-3.2-1b", "hira", 2, 512, BF16),
    make_case("llama-3.2-1b", "head", 8, 512, BF16, task="sequence-classification"),
    make_case("llama-3.2-1b", "qlora", 4, 1024, BF16, CHECKPOINTED),
    make_case("llama-3.2-1b", "qlora", 4, 1024, BF16, CHECKPOINTED, {"kbit_upcast": True}),
    make_case("llama-3.2-1b", "lora", 4, 1024, BF16, CHECKPOINTED, room=0.85),
    make_case("llama-3.2-1b", "lora", 4, 1024, BF16, CHECKPOINTED, room=1.15),
    make_case("gemma-2-2b", "lora", 1, 1024, BF16),
    make_case("gemma-2-2b", "lora", 2, 512, BF16, EAGER, CHECKPOINTED),
    make_case("gemma-2-2b", "full", 1, 512, BF16, SGD, CHECKPOINTED),
    make_case("llama-3.2-3b", "lora", 2, 1024, BF16, CHECKPOINTED),
    make_case("llama-3.2-3b", "full", 1, 512, BF16),
    make_case("llama-3.2-3b", "qlora", 2, 2048, BF16, CHECKPOINTED, PAGED),
    make_case("mistral-7b", "lora", 1, 4096, BF16, CHECKPOINTED),
    make_case("mistral-7b", "ia3", 1, 1024, BF16),
    make_case("mistral-7b", "qlora", 1, 2048, BF16, CHECKPOINTED),
    make_case("llama-3.1-8b", "full", 1, 64, BF16, SGD),
    make_case("llama-3.1-8b", "lora", 1, 1024, BF16),
    make_case("llama-3.1-8b", "lora", 2, 4096, BF16, CHECKPOINTED),
    make_case("llama-3.1-8b", "peft", 1, 512, BF16, CHECKPOINTED, knobs=DORA),
    make_case("llama-3.1-8b", "qlora", 2, 4096, BF16, CHECKPOINTED),
    make_case("distilbert-base", "full", 1, 512, EAGER, fill=0.90),
    make_case("qwen2-0.5b", "full", 1, 1024, BF16, fill=0.90),
    make_case("llama-3.2-1b", "lora", 1, 1024, BF16, fill=0.93),
    make_case("bert-base", "full", 1, 256, AMP, fill=1.25),
    make_case("qwen2-0.5b", "full", 1, 1024, BF16, fill=1.30),
    make_case("gemma-2-2b", "lora", 1, 1024, BF16, fill=1.20),
)

QUICK_CPU, QUICK_CUDA = CPU[::6], CUDA[:54:6]


def shard_of(cases: tuple[Case, ...], shard: tuple[int, int]) -> tuple[Case, ...]:
    """Every n-th case from the i-th on: all shards have small and large ones.

    Args:
        cases: Of the grid.
        shard: ``(i, n)`` with ``1 <= i <= n``.
    """
    index, count = shard
    return cases[index - 1 :: count]
