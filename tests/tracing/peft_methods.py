"""PEFT's registered methods on a tiny encoder and a tiny decoder: smallest configurations, and who refuses whom."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

from advisor.core.model import ModelSpec, Task
from advisor.core.plan import ExecutionPlan
from advisor.core.strategy import StrategyConfig
from advisor.strategies import get_strategy
from advisor.strategies.peft import PeftKnobs
from advisor.tracing.step import StepTrace
from advisor.training.build import build_model

KINDS = tuple(sorted(str(kind.value) for kind in PEFT_TYPE_TO_CONFIG_MAPPING))
"""Every type of the installed PEFT: a release with a new one is tested without a change here."""

MODELS: dict[str, Task] = {"bert": "sequence-classification", "llama": "causal-lm"}

VALUES: dict[str, dict[str, Any]] = {
    "ADALORA": {"total_step": 1000, "target_r": 4, "init_r": 6},
    "ADAMSS": {"r": 16},
    "ADAPTION_PROMPT": {"adapter_len": 4, "adapter_layers": 2},
    "C3A": {"block_size": 32},
    "CARTRIDGE": {"num_virtual_tokens": 8},
    "CPT": {"cpt_token_ids": [1, 2, 3, 4], "cpt_mask": [1, 1, 1, 1], "cpt_tokens_type_mask": [1, 2, 3, 4]},
    "FOURIERFT": {"n_frequency": 100},
    "FROD": {"progressbar": False},
    "MULTITASK_PROMPT_TUNING": {"num_virtual_tokens": 5, "num_tasks": 2},
    "PREFIX_TUNING": {"num_virtual_tokens": 5},
    "PROMPT_TUNING": {"num_virtual_tokens": 5},
    "PVERA": {"r": 16},
    "P_TUNING": {"num_virtual_tokens": 20, "encoder_hidden_size": 64},
    "RANDLORA": {"r": 8},
    "TRAINABLE_TOKENS": {"token_indices": [1, 2, 3]},
    "VBLORA": {"num_vectors": 16, "vector_length": 16},
    "VERA": {"r": 16},
    "WAVEFT": {"n_frequency": 100},
}
"""What a method needs on models this small; PEFT's defaults for the rest."""

REFUSED: dict[tuple[str, str], str] = {
    ("ADAPTION_PROMPT", "bert"): "supports llama, mistral, gpt2 only, but got bert",
    ("CPT", "bert"): "supports causal-lm only",
    ("MULTITASK_PROMPT_TUNING", "bert"): "needs task_ids beside every batch",
    ("MULTITASK_PROMPT_TUNING", "llama"): "needs task_ids beside every batch",
    ("POLY", "bert"): "needs task_ids beside every batch",
    ("POLY", "llama"): "needs task_ids beside every batch",
    ("SHADOW", "bert"): "Unable to automatically find a `nn.ModuleList` of decoder layers",
    # Experts of a classifier carry its trained head, which PEFT's loader for XLoRA does not know.
    ("XLORA", "bert"): "KeyError: .*pooler",
}
"""Whose own rule it is: the advisor repeats it, with the method's name."""

LORA_VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "dora": ("bert", {"use_dora": True}),
    "dora-dropout": ("llama", {"use_dora": True, "lora_dropout": 0.1}),
    "rslora": ("llama", {"use_rslora": True}),
    "pissa": ("bert", {"init_lora_weights": "pissa"}),
    "pissa-fast": ("llama", {"init_lora_weights": "pissa_niter_4"}),
    "olora": ("llama", {"init_lora_weights": "olora"}),
    "orthogonal": ("llama", {"init_lora_weights": "orthogonal"}),
    "eva": ("llama", {"init_lora_weights": "eva"}),
    "lora-bias": ("bert", {"lora_bias": True}),
    "all-biases": ("bert", {"bias": "all"}),
    "some-layers": ("llama", {"layers_to_transform": [0, 2]}),
    "ranks": ("llama", {"rank_pattern": {"q_proj": 16}}),
    "tokens": ("llama", {"trainable_token_indices": [1, 2, 3]}),
    "embeddings-saved": ("llama", {"modules_to_save": ["embed_tokens"]}),
    # A gradient reaches the copies of neither: they have no optimizer states.
    "wrapped-embeddings": ("bert", {"modules_to_save": ["embeddings"]}),
    "embedding-adapter": ("llama", {"target_modules": ["q_proj", "embed_tokens"]}),
    "expression": ("llama", {"target_modules": ".*self_attn.(q|v)_proj"}),
    "all-linear": ("bert", {"target_modules": "all-linear"}),
    "replicated": ("llama", {"layer_replication": [[0, 2], [1, 3]]}),
    "kasa": ("llama", {"kasa_config": {}}),
}
"""Model and fields beside ``{"peft_type": "LORA", "r": 8}``."""


def traced_kinds(model: str) -> list[str]:
    """Types that are not refused on ``model``."""
    return [kind for kind in KINDS if (kind, model) not in REFUSED]


def peft_strategy(kind: str, values: dict[str, Any] | None = None) -> StrategyConfig:
    """The strategy ``peft`` with this type's values."""
    chosen = VALUES.get(kind, {}) if values is None else values
    return StrategyConfig("peft", 1e-3, knobs=PeftKnobs(peft_config={"peft_type": kind, **chosen}))


def save_experts(spec: ModelSpec, folder: Path) -> dict[str, str]:
    """Two LoRA adapters of the model on the disk, as XLoRA wants them."""
    method, lora = get_strategy("peft"), peft_strategy("LORA", {"r": 4})
    adapters = {}
    for number in ("0", "1"):
        adapters[number] = str(folder / f"{spec.model_type}-expert-{number}")
        method.save(build_model(spec, lora, ExecutionPlan(micro_batch_size=1)), Path(adapters[number]))
    return adapters


def phase_peaks_bytes(trace: StepTrace) -> dict[str, int]:
    """Largest number of live bytes in every phase of a trace."""
    live_bytes, peaks = 0, Counter[str]()
    for sign, storage, phase in trace.recording.events:
        live_bytes += sign * trace.recording.storages[storage].size_bytes
        peaks[phase] = max(peaks[phase], live_bytes)
    return dict(peaks)
