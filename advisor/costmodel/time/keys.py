"""What makes two step times comparable: the same architecture, the same kinds of operators."""

from __future__ import annotations

from advisor.core.model import ModelSpec
from advisor.core.plan import ExecutionPlan


def model_key(model: ModelSpec) -> str:
    """Architecture and size, for example ``"bert/sequence-classification/384x6/30522"``; weights do not matter."""
    return f"{model.model_type}/{model.task}/{model.hidden_size}x{model.num_hidden_layers}/{model.vocab_size}"


def execution_key(execution: ExecutionPlan) -> str:
    """Execution knobs that change which operators run, apart from the batch's shape."""
    checkpointing = "checkpointing" if execution.gradient_checkpointing else "plain"
    return f"{execution.dtype}/{execution.amp}/{execution.attn_implementation}/{checkpointing}/{execution.optim}"
