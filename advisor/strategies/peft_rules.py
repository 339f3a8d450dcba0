"""What PEFT's methods ask of a configuration, a model and a task, said before PEFT fails on it in its own words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from advisor.core.tasks import TaskTraits

NEEDS_TASK_IDS = frozenset({"MULTITASK_PROMPT_TUNING", "POLY"})
"""Their forward pass raises without ``task_ids`` (multitask_prompt_tuning/model.py, poly/router.py)."""

PREFIXES = frozenset({"CARTRIDGE", "PREFIX_TUNING"})
"""They hand trained keys and values to every layer as ``past_key_values``."""

LENGTHENS = frozenset({"P_TUNING", "PROMPT_TUNING"})
"""They put ``num_virtual_tokens`` learned embeddings before every row; CPT puts its ``cpt_token_ids`` there."""


def added_tokens(kind: str, peft_config: dict[str, Any]) -> int:
    """By how many tokens a PEFT configuration of this kind lengthens every row."""
    if kind == "CPT":
        return len(peft_config.get("cpt_token_ids") or [0])
    return int(peft_config.get("num_virtual_tokens") or 0) if kind in LENGTHENS else 0


@dataclass(frozen=True)
class PeftUse:
    """One PEFT configuration as it is to be used.

    Attributes:
        kind: Its ``peft_type``, upper case.
        values: The configuration's fields as the user gave them.
        task: What the model is trained for.
        model_type: The architecture's name in transformers.
        prompt_learning: Whether PEFT counts the method as prompt learning.
    """

    kind: str
    values: dict[str, Any]
    task: TaskTraits
    model_type: str
    prompt_learning: bool


def broken_rules(use: PeftUse) -> list[tuple[str, str]]:
    """``(rule and value, fix)`` of everything that is wrong; empty when nothing is."""
    checks = (_trains, _task_ids, _prompt_length, _prompt_task, _adaption_prompt, _experts)
    return [problem for check in checks for problem in check(use)]


def _trains(use: PeftUse) -> list[tuple[str, str]]:
    if not use.values.get("inference_mode"):
        return []
    return [("inference_mode must be false for training, but got true", "remove inference_mode")]


def _task_ids(use: PeftUse) -> list[tuple[str, str]]:
    if use.kind not in NEEDS_TASK_IDS:
        return []
    alternative = "PROMPT_TUNING" if use.kind.endswith("PROMPT_TUNING") else "LORA"
    return [
        (
            f"{use.kind} trains on several tasks at once: PEFT's forward pass needs task_ids beside every batch, "
            "which one data set with one task does not have",
            f"use {alternative}",
        )
    ]


def _prompt_length(use: PeftUse) -> list[tuple[str, str]]:
    length = use.values.get("num_virtual_tokens")
    if not use.prompt_learning or use.kind == "CPT" or (isinstance(length, int) and length >= 1):
        return []
    return [(f"num_virtual_tokens >= 1 must hold for {use.kind}, but got {length}", 'add "num_virtual_tokens": 20')]


def _prompt_task(use: PeftUse) -> list[tuple[str, str]]:
    if use.kind == "CPT" and not use.task.predicts_next_token:
        return [
            (f"CPT supports causal-lm only (PEFT's CPTConfig), but the task is {use.task.name}", "use PROMPT_TUNING")
        ]
    if not use.prompt_learning or use.task.peft_task_type is not None:
        return []
    return [
        (
            f"{use.kind} needs one of PEFT's task types, but PEFT has none for {use.task.name}: "
            "its plain PeftModel would ignore the prompt",
            "use LORA, or another task",
        )
    ]


def _adaption_prompt(use: PeftUse) -> list[tuple[str, str]]:
    if use.kind != "ADAPTION_PROMPT":
        return []
    from peft.tuners.adaption_prompt.config import TRANSFORMERS_MODEL_CONFIG

    supported = ", ".join(TRANSFORMERS_MODEL_CONFIG)
    problems = []
    if use.model_type not in TRANSFORMERS_MODEL_CONFIG:
        problems.append((f"ADAPTION_PROMPT supports {supported} only, but got {use.model_type}", "use LORA"))
    for name, example in (("adapter_len", 10), ("adapter_layers", 2)):
        value = use.values.get(name)
        if not isinstance(value, int) or value < 1:
            problems.append((f"{name} >= 1 must hold for ADAPTION_PROMPT, but got {value}", f'add "{name}": {example}'))
    return problems


def _experts(use: PeftUse) -> list[tuple[str, str]]:
    if use.kind != "XLORA":
        return []
    adapters = use.values.get("adapters") or {}
    wanted = [str(number) for number in range(len(adapters))]
    if adapters and list(adapters) == wanted:
        return []
    found = f"got the names {', '.join(map(str, adapters))}" if adapters else "got none"
    return [
        (
            f"XLORA mixes LoRA adapters that exist already, named 0, 1, ... (PEFT numbers them), but {found}",
            'add "adapters": {"0": "first/adapter", "1": "second/adapter"}',
        )
    ]
