"""What a configuration's run reads and writes besides its steps, and what one written token takes."""

from __future__ import annotations

import math

from advisor.core.model import ModelSpec
from advisor.core.plan import ExecutionPlan, Optimizer
from advisor.core.strategy import StrategyConfig
from advisor.costmodel.depth import StepFamily
from advisor.costmodel.time import Decoding, RunShape
from advisor.costmodel.trace.ops import ITEM_BYTES, TracedOp
from advisor.strategies import get_strategy

STORED_WEIGHT_BYTES = 4
"""Of a parameter on disk, where the model's files were not looked at (float32, the larger of the usual types)."""
STATE_BYTES: dict[Optimizer, int] = {"sgd": 0, "adafactor": 0, "adamw_bnb_8bit": 2, "paged_adamw_8bit": 2}
"""Optimizer states of one parameter: AdamW's two moments are float32 (8 bytes); 8-bit ones a byte each; Adafactor's are
sums over rows and columns, and plain SGD has none."""
ADAMW_STATE_BYTES = 8
QUANTIZED_WEIGHT_BYTES = 0.5 + 4 / 64
"""NF4: two weights a byte and one float32 scale per block of 64 (Dettmers et al. 2023, QLoRA, before the scales are
quantised themselves)."""


def run_shape(
    family: StepFamily,
    rank: int,
    model: ModelSpec,
    strategy: StrategyConfig,
    execution: ExecutionPlan,
    *,
    peak_bytes: int = 0,
) -> RunShape:
    """The run of one configuration: the Trainer's checkpoints hold the trained part and its optimizer states, the whole
    model where the method saves it whole. What is live at the peak beyond the weights is first used by steps.
    """
    total, trainable = family.total_parameters(rank), family.trainable_parameters(rank)
    written = total if get_strategy(strategy.method).saves_whole_model else trainable
    item_bytes = ITEM_BYTES[execution.dtype]
    quantized = quantized_parameters(family, rank, model, strategy)
    return RunShape(
        weights_bytes=model.weights_bytes or STORED_WEIGHT_BYTES * model.total_parameters,
        quantized_parameters=quantized,
        saved_bytes=written * item_bytes,
        checkpoint_bytes=written * item_bytes + trainable * STATE_BYTES.get(execution.optim, ADAMW_STATE_BYTES),
        evaluations=max(1, math.ceil(strategy.num_train_epochs)),
        fresh_bytes=max(0, peak_bytes - loaded_bytes(total, quantized, execution)),
    )


def quantized_parameters(family: StepFamily, rank: int, model: ModelSpec, strategy: StrategyConfig) -> int:
    """Weights in 4 bits: all but embeddings and what is trained, where any are."""
    if get_strategy(strategy.method).quantization(strategy, device_type="cpu") is None:
        return 0
    embedded = model.vocab_size * model.hidden_size
    return max(0, family.total_parameters(rank) - family.trainable_parameters(rank) - embedded)


def loaded_bytes(total: int, quantized: int, execution: ExecutionPlan) -> int:
    """All weights in memory, ``quantized`` of them in 4 bits."""
    return round((total - quantized) * ITEM_BYTES[execution.dtype] + quantized * QUANTIZED_WEIGHT_BYTES)


def decoding(
    family: StepFamily,
    rank: int,
    model: ModelSpec,
    strategy: StrategyConfig,
    execution: ExecutionPlan,
    operators: list[TracedOp],
) -> Decoding:
    """One written token of a causal model.

    Args:
        family: Gives parameter counts.
        rank: Symbolic rank of the method.
        model: Its vocabulary.
        strategy: Whether weights are in 4 bits.
        execution: Data type of the weights.
        operators: Of one evaluation batch.
    """
    quantized = quantized_parameters(family, rank, model, strategy)
    weights_bytes = loaded_bytes(family.total_parameters(rank), quantized, execution)
    return Decoding(weights_bytes, sum(op.count for op in operators if op.phase == "evaluation"))
