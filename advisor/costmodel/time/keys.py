"""What makes two step times comparable: the same architecture, the same kinds of operators."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict

from advisor.core.model import ModelSpec
from advisor.core.plan import ExecutionPlan
from advisor.core.strategy import StrategyConfig

LEARNING_KNOBS = (
    *("learning_rate", "lr_rel", "num_train_epochs", "lora_alpha", "weight_decay", "warmup_ratio"),
    *("lr_scheduler_type", "max_grad_norm"),
)
"""Fields of ``StrategyConfig`` that no step's time depends on."""
RUN_KNOBS = ("max_seq_length", "eval_batch_size", "group_by_length")
"""Fields of ``ExecutionPlan`` that make a run of steps, not a step."""


def model_key(model: ModelSpec) -> str:
    """Architecture and size, for example ``"bert/sequence-classification/384x6/30522"``; weights do not matter."""
    return f"{model.model_type}/{model.task}/{model.hidden_size}x{model.num_hidden_layers}/{model.vocab_size}"


def execution_key(execution: ExecutionPlan) -> str:
    """Execution knobs that change which operators run, apart from the batch's shape."""
    checkpointing = "checkpointing" if execution.gradient_checkpointing else "plain"
    return f"{execution.dtype}/{execution.amp}/{execution.attn_implementation}/{checkpointing}/{execution.optim}"


def configuration_key(model: ModelSpec, strategy: StrategyConfig, execution: ExecutionPlan, seq_length: int) -> str:
    """Digest of everything that decides how long a step takes on a device: equal keys are repeats of one measurement.

    Args:
        model: Architecture and task.
        strategy: Method and its knobs.
        execution: Execution knobs.
        seq_length: Tokens per row of every micro-batch.
    """
    learned = {name: value for name, value in asdict(strategy).items() if name not in LEARNING_KNOBS}
    executed = {name: value for name, value in asdict(execution).items() if name not in RUN_KNOBS}
    text = json.dumps([model_key(model), learned, executed, seq_length], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
