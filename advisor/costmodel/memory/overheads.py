"""What a run holds besides the traced step: further micro-batches, weights on their way, and the host's share."""

from __future__ import annotations

from dataclasses import dataclass

from advisor.core.data import DataProfile
from advisor.core.model import ModelSpec
from advisor.core.plan import ExecutionPlan
from advisor.costmodel.memory.batch_sequence import RunShapes
from advisor.strategies import get_strategy
from advisor.tracing.ops import ITEM_BYTES
from advisor.tracing.trace_store import TracedConfiguration

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
class RunOverheads:
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


def untraced_batch_bytes(execution: ExecutionPlan, rows: int, seq_length: int) -> int:
    """What the loader holds of an accumulating step besides the micro-batches that are traced."""
    untraced = max(0, execution.gradient_accumulation_steps - TRACED_MICRO_BATCHES)
    return untraced * TENSORS_PER_BATCH * ITEM_BYTES["int"] * rows * seq_length


def run_overheads(asked: TracedConfiguration, shapes: RunShapes, data: DataProfile | None) -> RunOverheads:
    """What one configuration's run does besides its traced steps."""
    execution, (rows, length, rank) = asked.execution, shapes.training
    quantized = asked.family.largest_quantized_weight()
    item_bytes = ITEM_BYTES[execution.dtype]
    total, trainable = asked.family.total_parameters(rank), asked.family.trainable_parameters(rank)
    method = get_strategy(asked.strategy.method)
    whole = method.saves_whole_model
    fitting_bytes = fit_bytes(asked.model, data) if method.fits_frozen_features and data is not None else 0
    return RunOverheads(
        extra_batch_bytes=untraced_batch_bytes(execution, rows, length),
        quantizing_bytes=quantized * item_bytes,
        reader_bytes=READER_BYTES + fitting_bytes + kept_bytes(asked, data) if data is not None else 0,
        host=HostNeeds(
            weights_bytes=0 if quantized else total * item_bytes,
            stored_bytes=asked.model.weights_bytes,
            saved_bytes=(total if whole else trainable) * item_bytes,
            optimizer_bytes=PAGED_BYTES_PER_PARAMETER * trainable if execution.optim.startswith("paged") else 0,
            text_bytes=data.text_bytes + fitting_bytes if data is not None else 0,
        ),
    )


def kept_bytes(asked: TracedConfiguration, data: DataProfile) -> int:
    """Hidden states of all tokens, where they are kept: a file whose pages count as the process's while it reads
    them.
    """
    if not asked.execution.keep_features:
        return 0
    tokens = (data.train_rows + data.eval_rows) * data.mean_tokens(asked.execution.max_seq_length)
    return round(tokens * asked.model.hidden_size * ITEM_BYTES[asked.execution.dtype])


FITTING_IMPORT_BYTES = 60 << 20
"""Resident set of scikit-learn and what it imports of scipy: 40 to 70 MB."""
FEATURE_COPIES = 3
"""Features of all rows as they came, scaled, and those of the rows that a part of cross-validation is fitted to."""


def fit_bytes(model: ModelSpec, data: DataProfile) -> int:
    """Host memory of fitting a classifier to float32 features of all rows."""
    features = (data.train_rows + data.eval_rows) * model.hidden_size * ITEM_BYTES["float32"]
    return FITTING_IMPORT_BYTES + FEATURE_COPIES * features


# --------------------
# What a run on a CUDA card takes of the host's memory: loading, training, and saving.

BASELINE_BYTES = 3 << 30
"""Resident set of a process that has imported torch with CUDA, transformers and peft, and has used the card once: 2 to
4 GiB, most of it CUDA's libraries. An assumption until a machine with a card was measured."""
SHARD_BYTES = 50 * 10**9
"""``save_pretrained`` writes shards of at most this size (transformers 5, ``max_shard_size``); safetensors 0.8 copies
all tensors of a shard to the host before it writes (``_flatten_as_ptr``)."""


@dataclass(frozen=True)
class HostNeeds:
    """Sizes that pass through the host's memory.

    Attributes:
        weights_bytes: The model's weights as they are built on the host and then moved; 0 where they are quantised on
            the card one tensor at a time.
        stored_bytes: Weights on disk: their pages are mapped while they are read.
        saved_bytes: What one checkpoint writes of the model.
        optimizer_bytes: Paged optimizer states, which the driver may move to the host.
        text_bytes: All texts of the data set.
    """

    weights_bytes: int
    stored_bytes: int
    saved_bytes: int
    optimizer_bytes: int = 0
    text_bytes: int = 0


def host_peak_bytes(needs: HostNeeds) -> int:
    """The largest of loading, training and saving; texts are read before the weights and stay."""
    loading = needs.weights_bytes + needs.stored_bytes
    saving = needs.optimizer_bytes + min(needs.saved_bytes, SHARD_BYTES)
    return BASELINE_BYTES + needs.text_bytes + max(loading, saving)
