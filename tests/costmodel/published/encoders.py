"""Published peaks of encoders: transformers' single-GPU guide (BERT-large) and a DistilBERT comparison on SST-2."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.costmodel.published.figures import MIB, Figure

CONFIGS = Path(__file__).resolve().parents[2] / "fixtures" / "configs"
DISTILBERT = json.loads((CONFIGS / "distilbert-base-uncased.json").read_text(encoding="utf-8"))
BERT_BASE = json.loads((CONFIGS / "bert-base-uncased.json").read_text(encoding="utf-8"))
BERT_LARGE = BERT_BASE | {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}

GUIDE_CONTEXT_MIB = 1343
"""What NVML showed after one tensor was allocated, by the guide itself."""
SOFTMAX_INPUT = (
    "torch before 1.11 saved softmax's input for the backward pass besides its output (transformers.pytorch_utils."
    "softmax_backward_data bridged the change): one more float32 score matrix per stored layer"
)


def _softmax_input_bytes(batch: int, stored_layers: int) -> float:
    """Heads x length^2 float32 per row and stored layer."""
    return 4.0 * stored_layers * batch * 16 * 512 * 512


def _guide(label: str, batch: int, mib: int, *, checkpointing: bool = False, **execution: Any) -> Figure:
    if checkpointing:
        execution |= {"gradient_checkpointing": True, "reentrant_checkpointing": True}
    return Figure(
        label=f"BERT-large, {label}",
        measured_bytes=mib * MIB,
        model=BERT_LARGE,
        task="sequence-classification",
        method="full",
        batch=batch,
        length=512,
        device="v100-sxm2-16gb",
        quantity="reserved_bytes",
        added_bytes=GUIDE_CONTEXT_MIB * MIB,
        execution={
            "attn_implementation": "eager",
            # The Trainer of 2022: gradients are zeroed, not dropped; its own AdamW has next to no temporaries.
            "zero_grad_set_to_none": False,
            "optim": "adamw_torch_fused",
            "gradient_accumulation_steps": 4 // batch,
            **execution,
        },
        explanation=SOFTMAX_INPUT,
        explained_bytes=_softmax_input_bytes(batch, 1 if checkpointing else 24),
        slow=label not in ("batch 4", "batch 1 x 4"),
    )


GUIDE = [
    _guide("batch 4", 4, 14949),
    _guide("batch 1 x 4", 1, 8681),
    _guide("batch 1 x 4, checkpointing", 1, 6775, checkpointing=True),
    _guide("batch 4, fp16", 4, 13939, amp="fp16"),
    _guide("batch 1 x 4, checkpointing, fp16", 1, 7275, checkpointing=True, amp="fp16"),
    _guide("batch 4, Adafactor", 4, 12295, optim="adafactor"),
    _guide("batch 1 x 4, checkpointing, fp16, Adafactor", 1, 4847, checkpointing=True, amp="fp16", optim="adafactor"),
    _guide("batch 4, 8-bit Adam", 4, 13085, optim="adamw_bnb_8bit"),
    _guide(
        "batch 1 x 4, checkpointing, fp16, 8-bit Adam", 1, 5363, checkpointing=True, amp="fp16", optim="adamw_bnb_8bit"
    ),
]
"""github.com/huggingface/transformers, docs perf_train_gpu_one.mdx of 2022 (commit 0016acf): NVML's total of a
V100-16GB, 512 dummy rows of exactly 512 tokens, torch 1.10 or 1.11."""

LONGEST_SST2 = 66
"""Word pieces of the longest SST-2 sentence; in three epochs it meets every method, and batches are padded to it."""


def _sst2(label: str, method: str, batch: int, length: int, mib: float, rank: int | None = None, **more: Any) -> Figure:
    return Figure(
        label=f"DistilBERT SST-2, {label}",
        measured_bytes=mib * MIB,
        model=DISTILBERT,
        task="sequence-classification",
        method=method,
        knobs={} if rank is None else {"rank": rank, "lora_alpha": 16},
        batch=batch,
        length=length,
        device="rtx-a6000",
        execution={"optim": "adamw_torch", **more},
        slow=False,
    )


_KBIT = {"kbit_upcast": True}
SST2 = [
    _sst2("full, batch 8", "full", 8, LONGEST_SST2, 1305.9),
    *(
        _sst2(f"LoRA r={rank}, batch 32", "lora", 32, LONGEST_SST2, mib, rank)
        for rank, mib in ((4, 810.0), (8, 811.2), (16, 813.7), (32, 818.6))
    ),
    *(
        _sst2(f"QLoRA r={rank}, batch 32", "qlora", 32, LONGEST_SST2, mib, rank, **_KBIT)
        for rank, mib in ((4, 687.0), (8, 688.2), (16, 690.6), (32, 695.6))
    ),
    _sst2("LoRA r=8, batch 16 x 128 (T4 draft)", "lora", 16, 128, 795.99, 8),
    _sst2("QLoRA r=8, batch 16 x 128 (A100 draft)", "qlora", 16, 128, 331.02, 8, **_KBIT, gradient_checkpointing=True),
]
"""github.com/keeminlee/hpml-peft-benchmark (commit b740864): ``max_memory_allocated`` over training, as typed in the
notebooks."""

DEBERTA_XXL = json.loads((CONFIGS / "deberta-v3-base.json").read_text(encoding="utf-8")) | {
    "hidden_size": 1536,
    "pooler_hidden_size": 1536,
    "num_hidden_layers": 48,
    "num_attention_heads": 24,
    "intermediate_size": 6144,
    "conv_kernel_size": 3,
    "conv_act": "gelu",
}
"""microsoft/deberta-v2-xxlarge: 1.5 billion parameters."""
_SNLI = {"distilbert": (DISTILBERT, "sdpa"), "bert": (BERT_BASE, "sdpa"), "deberta-v2-xxl": (DEBERTA_XXL, "eager")}


def snli(name: str, method: str, length: int) -> Figure:
    """The SNLI comparison's runs at batch 8; the source states neither length nor what was measured."""
    model, kernel = _SNLI[name]
    return Figure(
        label=f"{name} SNLI, {method}",
        measured_bytes=1.0,
        model=model | {"num_labels": 3},
        task="sequence-classification",
        method=method,
        batch=8,
        length=length,
        device="h100-sxm5-80gb",
        execution={"optim": "adamw_torch", "attn_implementation": kernel},
    )
