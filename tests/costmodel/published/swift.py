"""ms-swift's memory benchmark: ``torch.cuda.max_memory_reserved`` in GiB after a run over texts of mixed length.

github.com/modelscope/ms-swift, docs Benchmark.md until December 2024 (scripts of January 2024): A100-80GB, CUDA 11.8,
torch 2.1.1, flash_attn 2.3.4; LoRA r=8 on the fused query-key-value projection, bf16, batch 1, accumulation 16,
checkpointing. The texts (cls-fudan-news-zh) have 3,234 +- 2,548 tokens, 91 to 19,548, cut at ``max_length``.
"""

from __future__ import annotations

from typing import Any

from tests.costmodel.published.figures import GIB, Figure
from tests.costmodel.published.qwen import EXECUTION as QWEN_EXECUTION
from tests.costmodel.published.qwen import MODELS

MORE_LOGITS = (
    "the source grows by 7 to 12 float32 copies of the logits per row of tokens, where the model's code keeps 3 alive; "
    "the excess is the same for 1.8B, 7B and 14B and for every rank, and checkpointing saves what is predicted: logits "
    "of earlier micro-steps were still held (inferred, not found in swift 1.x's code). Qwen's own table has the same "
    "model, method and length 4 GiB lower, and is predicted within 6 %"
)
NOT_MONOTONIC = (
    "the source contradicts itself: 35.1 GiB at 2,048 tokens, 31.6 at 4,096; as in its LoRA rows, more logits were "
    "held than the model's code keeps"
)
EXECUTION = QWEN_EXECUTION | {"gradient_accumulation_steps": 16}
FUSED: dict[str, Any] = {
    "rank": 8,
    "lora_alpha": 32,
    "lora_dropout": 0.05,
    "target_modules": ("attn.attn",),
    "max_grad_norm": 0.5,
}


def _row(label: str, model: str, gib: float, *, batch: int = 1, length: int = 2048, **more: Any) -> Figure:
    return Figure(
        label=f"{model} {label}",
        measured_bytes=gib * GIB,
        model=MODELS[model],
        method=more.pop("method", "lora"),
        knobs=more.pop("knobs", FUSED),
        batch=batch,
        length=length,
        quantity="reserved_bytes",
        explanation=more.pop("explanation", ""),
        execution=EXECUTION | more,
    )


LENGTHS = (512, 1024, 2048, 4096, 8192)
LORA = [
    _row(f"LoRA, {length}", model, gib, length=length, explanation=MORE_LOGITS)
    for model, peaks in {
        "Qwen-1.8B": (6.99, 10.71, 16.35, 23.80, 37.03),
        "Qwen-7B": (18.01, 21.73, 27.74, 35.31, 48.41),
        "Qwen-14B": (30.14, 34.43, 40.14, 47.95, 60.74),
    }.items()
    for length, gib in zip(LENGTHS, peaks, strict=True)
]
FULL = [
    _row(
        f"full, {length}",
        model,
        gib,
        length=length,
        method="full",
        knobs={"max_grad_norm": 0.5},
        explanation=NOT_MONOTONIC if model == "Qwen-1.8B" and length >= 2048 else "",
    )
    for model, peaks in {
        "Qwen-1.8B": (18.16, 18.62, 35.11, 31.62, 38.93),
        "Qwen-7B": (73.37, 73.64, 74.26, 78.76),
    }.items()
    for length, gib in zip(LENGTHS, peaks, strict=False)
]
SWITCHES = [
    _row("LoRA, checkpointing", "Qwen-7B", 27.74, explanation=MORE_LOGITS),
    _row(
        "LoRA, no checkpointing",
        "Qwen-7B",
        37.70,
        gradient_checkpointing=False,
        reentrant_checkpointing=False,
        explanation=MORE_LOGITS,
    ),
    _row("LoRA r=2", "Qwen-7B", 27.72, knobs=FUSED | {"rank": 2}, explanation=MORE_LOGITS),
    _row("LoRA r=64", "Qwen-7B", 27.85, knobs=FUSED | {"rank": 64}, explanation=MORE_LOGITS),
    _row(
        "LoRA on all linear layers",
        "Qwen-7B",
        27.87,
        knobs=FUSED | {"target_modules": "all-linear"},
        explanation=MORE_LOGITS,
    ),
    _row("LoRA, batch 2", "Qwen-7B", 43.11, batch=2, explanation=MORE_LOGITS),
    _row("LoRA, batch 4", "Qwen-7B", 63.81, batch=4, explanation=MORE_LOGITS),
    _row("LoRA, batch 8", "Qwen-7B", 76.14, batch=8, explanation=MORE_LOGITS),
]
"""Checkpointing on and off, rank, targets and batch of one configuration: their differences are predicted."""
