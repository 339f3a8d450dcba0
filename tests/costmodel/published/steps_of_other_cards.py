"""Published step times on cards other than the A100, for predictions from their datasheets.

Figures only, one line per configuration, seconds of one optimizer step at the exact length:

* fitcheck-llm 0.3.1 (PyPI, MIT): ``data/measurements`` of its sdist, a Tesla T4, its own loop of forward, backward and
  step with PEFT, float16 weights, checkpointing, no autocast; NF4 without double quantisation after
  ``prepare_model_for_kbit_training``.
* IBM's ado-sfttrainer as decoded from the nearest-neighbour model of github.com/atlarge-research/coastline-recommender
  (MIT): H100 PCIe, full fine-tuning of an 8B decoder, checkpointing, flash attention 2; the optimizer is not stated.
* github.com/foundation-model-stack/fms-acceleration (Apache-2.0), l40_40gb.csv: L40S, Mistral-7B.
* github.com/NVIDIA/DeepLearningExamples, PyTorch BERT README: V100, BERT-large, SQuAD.
* github.com/SumanthRH/finetune-benchmarking, notes.md: RTX 3090, BERT-large.
* github.com/tyy0811/finetune-bench, amp_comparison.json: A10, DistilBERT.
"""

from __future__ import annotations

from typing import Any

from tests.costmodel.published.timed import Timed, config

_BERT_LARGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


def _llama(hidden: int, inner: int, layers: int, heads: int, key_value_heads: int, vocabulary: int) -> dict[str, Any]:
    return config(
        "llama-3.2-1b",
        rope_scaling=None,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        head_dim=hidden // heads,
        vocab_size=vocabulary,
    )


MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert-large": ("sequence-classification", config("bert-base-uncased", **_BERT_LARGE)),
    "distilbert": ("sequence-classification", config("distilbert-base-uncased")),
    "granite-8b": ("causal-lm", config("granite-3.1-2b-base", hidden_size=4096, intermediate_size=12800)),
    "llama-3.2-1b": ("causal-lm", config("llama-3.2-1b")),
    "mistral-7b": ("causal-lm", config("mistral-7b-v0.1")),
    "mistral-7b-v0.3": ("causal-lm", config("mistral-7b-v0.1", vocab_size=32768, sliding_window=None)),
    "qwen2.5-7b": ("causal-lm", config("qwen2.5-7b")),
    "qwen2.5-1.5b": (
        "causal-lm",
        config(
            "qwen2.5-7b",
            hidden_size=1536,
            intermediate_size=8960,
            num_attention_heads=12,
            num_key_value_heads=2,
            vocab_size=151936,
            tie_word_embeddings=True,
        ),
    ),
    "smollm2-135m": ("causal-lm", _llama(576, 1536, 30, 9, 3, 49152)),
    "smollm2-360m": ("causal-lm", _llama(960, 2560, 32, 15, 5, 49152)),
    "smollm2-1.7b": ("causal-lm", _llama(2048, 8192, 24, 32, 32, 49152)),
    "tinyllama-1.1b": ("causal-lm", _llama(2048, 5632, 22, 32, 4, 32000) | {"tie_word_embeddings": False}),
}

_T4 = (
    ("mistral-7b-v0.3", "qlora", 16, "eager", 1, 1024, 4.0693),
    ("mistral-7b-v0.3", "qlora", 16, "sdpa", 1, 1024, 3.9009),
    ("qwen2.5-7b", "qlora", 16, "sdpa", 1, 1024, 3.7248),
    ("llama-3.2-1b", "qlora", 16, "sdpa", 1, 1024, 0.8671),
    ("qwen2.5-1.5b", "lora", 32, "eager", 1, 2048, 1.5662),
    ("smollm2-1.7b", "qlora", 32, "eager", 1, 2048, 3.6457),
    ("smollm2-1.7b", "lora", 32, "sdpa", 1, 2048, 1.4809),
    ("tinyllama-1.1b", "qlora", 32, "sdpa", 12, 1024, 9.869),
    ("tinyllama-1.1b", "qlora", 32, "eager", 4, 1024, 4.2015),
    ("tinyllama-1.1b", "qlora", 32, "sdpa", 8, 1024, 6.1707),
    ("qwen2.5-1.5b", "lora", 32, "eager", 2, 1024, 1.3497),
    ("smollm2-1.7b", "qlora", 32, "eager", 4, 1024, 6.7864),
    ("smollm2-1.7b", "lora", 32, "eager", 4, 1024, 4.8425),
    ("smollm2-1.7b", "qlora", 32, "sdpa", 4, 1024, 5.1285),
    ("smollm2-1.7b", "lora", 32, "sdpa", 4, 1024, 3.7084),
    ("smollm2-135m", "qlora", 32, "eager", 1, 4096, 3.6853),
    ("smollm2-135m", "lora", 32, "sdpa", 1, 4096, 0.8349),
    ("smollm2-135m", "qlora", 32, "sdpa", 2, 512, 0.3623),
    ("smollm2-360m", "lora", 32, "eager", 1, 4096, 4.315),
    ("tinyllama-1.1b", "qlora", 32, "eager", 2, 1024, 2.0292),
    ("tinyllama-1.1b", "lora", 32, "sdpa", 2, 1024, 1.1508),
    ("tinyllama-1.1b", "qlora", 32, "sdpa", 2, 2048, 4.5509),
    ("tinyllama-1.1b", "lora", 32, "eager", 2, 512, 0.5977),
)
"""Model, method, rank, attention, rows, tokens, seconds."""
_H100_PCIE = (
    (4, 1024, 1.1123), (1, 2048, 0.6441), (4, 2048, 2.1065), (2, 4096, 2.2105), (1, 512, 0.2337), (16, 512, 1.9842),
    (4, 512, 0.6021), (1, 8192, 2.4979),
)  # fmt: skip
"""Rows, tokens, seconds."""


def other_cards() -> list[Timed]:
    """All rows; seconds are those of one micro-batch's share of a step."""
    rows = [
        Timed(
            "fitcheck-llm", "t4", model, method, batch, length, seconds, dtype="float16",
            strategy=(method, {"rank": rank, "target_modules": _ATTENTION} | _plain_nf4(method)),
            execution=_execution("float16", attention, checkpointed=True, kbit_upcast=method == "qlora"),
        )
        for model, method, rank, attention, batch, length, seconds in _T4
    ]  # fmt: skip
    rows += [
        Timed(
            "ado-sfttrainer", "h100-pcie-80gb", "granite-8b", "full", batch, length, seconds,
            execution=_execution("bfloat16", "flash_attention_2", checkpointed=True, optim="adamw_torch_fused"),
        )
        for batch, length, seconds in _H100_PCIE
    ]  # fmt: skip
    adapters = {"rank": 16, "target_modules": _ATTENTION}
    for method, amp, seconds in (("lora", "none", 6.014), ("qlora", "fp16", 6.5092)):
        execution = _execution("float16", "flash_attention_2", checkpointed=True, amp=amp)
        rows.append(
            Timed("fms-acceleration", "l40s", "mistral-7b", method, 4, 4096, seconds, dtype="float16",
                  strategy=(method, adapters), execution=execution)
        )  # fmt: skip
    for batch, amp, seconds in ((10, "fp16", 0.2212), (4, "fp16", 0.1115), (4, "none", 0.4464)):
        execution = _execution("float32", "eager", padded=True, amp=amp, optim="adamw_torch_fused")
        rows.append(
            Timed("DeepLearningExamples", "v100-sxm2-16gb", "bert-large", "full", batch, 384, seconds, dtype="float32",
                  execution=execution)
        )  # fmt: skip
    for checkpointed, seconds in ((False, 0.4376), (True, 0.4454)):
        execution = _execution("float32", "eager", checkpointed=checkpointed, accumulation=4)
        rows.append(
            Timed("finetune-benchmarking", "rtx-3090", "bert-large", "full", 1, 512, seconds / 4, dtype="float32",
                  execution=execution)
        )  # fmt: skip
    rows.append(
        Timed("finetune-bench", "a10", "distilbert", "full", 16, 128, 0.1418 / 2, dtype="float32",
              execution=_execution("float32", "eager", padded=True, accumulation=2))
    )  # fmt: skip
    return rows


def _plain_nf4(method: str) -> dict[str, Any]:
    return {"double_quant": False} if method == "qlora" else {}


def _execution(
    dtype: str,
    attention: str,
    *,
    amp: str = "none",
    optim: str = "adamw_torch",
    padded: bool = False,
    checkpointed: bool = False,
    accumulation: int = 1,
    kbit_upcast: bool = False,
) -> dict[str, Any]:
    return {
        "gradient_accumulation_steps": accumulation,
        "padded": padded,
        "gradient_checkpointing": checkpointed,
        "dtype": dtype,
        "amp": amp,
        "optim": optim,
        "attn_implementation": attention,
        "kbit_upcast": kbit_upcast,
    }
