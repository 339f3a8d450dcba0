"""What a run holds besides the traced step: further micro-batches, weights on their way, and the host's share."""

from __future__ import annotations

from dataclasses import dataclass

from advisor.core.data import DataProfile
from advisor.core.model import ModelSpec
from advisor.core.plan import ExecutionPlan
from advisor.core.strategy import StrategyConfig
from advisor.costmodel.depth import StepFamily
from advisor.costmodel.memory.history import RunShapes
from advisor.costmodel.memory.host import HostNeeds
from advisor.costmodel.trace.ops import ITEM_BYTES
from advisor.strategies import get_strategy

TENSORS_PER_BATCH = 3
"""Token ids, mask and labels."""
TRACED_MICRO_BATCHES = 2
"""Of an accumulating step; the Trainer draws all its micro-batches before the first forward pass."""
PAGED_BYTES_PER_PARAMETER = 2
"""Two 8-bit moments (Dettmers et al. 2022); paged, they live in managed memory that the driver may move."""
READER_BYTES = 45 << 20
"""What a whole run on a CPU holds beside equal steps of made-up tokens: its tokenizer, token ids, the libraries that
read data. Five runs of MiniLM and SmolLM2 that met their longest batch held 37 to 108 MiB more than their steps did."""


@dataclass(frozen=True)
class RunFacts:
    """What a run does besides the traced steps.

    Attributes:
        extra_batch_bytes: Micro-batches that the loader holds besides the traced ones.
        quantizing_bytes: The largest weight that is quantised on the device while loading, in full precision:
            transformers 5 loads synchronously then, so there is one at a time (``core_model_loading``).
        reader_bytes: What reading the data leaves in a process on a CPU.
        host: What passes through the host's memory; ``None`` leaves the host's figure out.
    """

    extra_batch_bytes: int = 0
    quantizing_bytes: int = 0
    reader_bytes: int = 0
    host: HostNeeds | None = None


def run_facts(
    family: StepFamily,
    shapes: RunShapes,
    model: ModelSpec,
    strategy: StrategyConfig,
    execution: ExecutionPlan,
    data: DataProfile | None,
) -> RunFacts:
    """The facts of one configuration.

    Args:
        family: Gives parameter counts and 4-bit weights.
        shapes: Of the run's batches.
        model: Its stored weights.
        strategy: Whether the model or an adapter is saved.
        execution: Data types, optimizer, accumulation.
        data: Its texts lie in the host's memory.
    """
    rows, length, rank = shapes.training
    untraced = max(0, execution.gradient_accumulation_steps - TRACED_MICRO_BATCHES)
    quantized = family.largest_quantized_weight()
    item_bytes = ITEM_BYTES[execution.dtype]
    total, trainable = family.total_parameters(rank), family.trainable_parameters(rank)
    whole = get_strategy(strategy.method).saves_whole_model
    return RunFacts(
        extra_batch_bytes=untraced * TENSORS_PER_BATCH * ITEM_BYTES["int"] * rows * length,
        quantizing_bytes=quantized * item_bytes,
        reader_bytes=READER_BYTES if data is not None else 0,
        host=HostNeeds(
            weights_bytes=0 if quantized else total * item_bytes,
            stored_bytes=model.weights_bytes,
            saved_bytes=(total if whole else trainable) * item_bytes,
            optimizer_bytes=PAGED_BYTES_PER_PARAMETER * trainable if execution.optim.startswith("paged") else 0,
            text_bytes=data.text_bytes if data is not None else 0,
        ),
    )
