"""Execution knobs (ExecutionPlan) and the one file that every command speaks (Plan)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from advisor.core.budget import Budget
from advisor.core.cost import CostEstimate
from advisor.core.data import DataProfile, DataSpec
from advisor.core.errors import PlanError
from advisor.core.model import ModelSpec
from advisor.core.serialization import LATER, from_dict, read_json, to_json
from advisor.core.store import write_text_atomically
from advisor.core.strategy import StrategyConfig

SCHEMA_VERSION = 2
MOST_THREADS = 1024
"""More are a slip of the pen, and starting them takes a machine's memory."""
"""Version 1 listed the knobs of every built-in method in ``strategy``, with null where the method has no such knob;
since version 2 these are left out, and a strategy may have knobs that this package does not know."""

Dtype = Literal["float32", "bfloat16", "float16"]
SHORT_DTYPES: dict[str, Dtype] = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""How commands and tables abbreviate data types of weights."""
Amp = Literal["none", "bf16", "fp16"]
AttentionImplementation = Literal["eager", "sdpa", "flash_attention_2"]
Optimizer = Literal[
    "adamw_torch", "adamw_torch_fused", "sgd", "adafactor", "adamw_bnb_8bit", "paged_adamw_8bit", "lorafa"
]
Loss = Literal["standard", "fused-linear"]

BITSANDBYTES_OPTIMIZERS: frozenset[Optimizer] = frozenset({"adamw_bnb_8bit", "paged_adamw_8bit"})
"""A run needs bitsandbytes for them; a prediction does not."""

ADAPTER_OPTIMIZERS: frozenset[Optimizer] = frozenset({"lorafa"})
"""They only train adapters of one kind: strategies that have these name them (``Strategy.own_optimizers``)."""


@dataclass(frozen=True)
class ExecutionPlan:
    """Execution knobs: they change what a run costs, not what it learns.

    Attributes:
        micro_batch_size: Rows per forward pass.
        gradient_accumulation_steps: Forward passes per optimizer step; their product is the effective batch size.
        max_seq_length: Rows are truncated here.
        padded: Whether batches hold padding (decides mask and attention kernel).
        separate_documents: Whether blocks hold several documents that do not see each other (decides mask and attention
            kernel).
        gradient_checkpointing: Recompute activations.
        reentrant_checkpointing: Recompute with autograd's reentrant variant instead of the non-reentrant one.
        attn_implementation: As in transformers.
        dtype: Data type of the (unquantised) weights.
        amp: Automatic mixed precision of the forward pass.
        optim: As in ``transformers.TrainingArguments.optim``; ``"lorafa"`` is PEFT's LoRA-FA optimizer (only the second
            factor of each adapter trains).
        kbit_upcast: Pass a 4-bit model through PEFT's ``prepare_model_for_kbit_training`` (norms, embeddings and head
            in float32).
        zero_grad_set_to_none: Drop gradients between steps (torch's and the Trainer's default) instead of zeroing them.
        hold_outputs: Keep the forward pass's outputs until the backward pass is over, as hand-written training loops
            and older Trainers do; the Trainer of transformers 5 does not.
        loss: ``"fused-linear"`` computes output projection and cross-entropy together, in chunks of rows, and never
            holds all logits.
        eval_batch_size: Rows per forward pass of evaluation; ``None``: as many as in a micro-batch
            (``evaluation_batch_size`` is the number).
        num_threads: Intra-op threads on CPU; ``None`` leaves torch's choice.
        group_by_length: Batches are made of rows of similar length (the Trainer's ``train_sampling_strategy``), so that
            little padding is computed; their order is random nevertheless.
        tf32: Matrix products of float32 tensors may round their operands to TensorFloat-32 (CUDA, compute capability
            8.0 and up).
        torch_compile: Compile the model with ``torch.compile`` (the Trainer's ``torch_compile``).
        keep_features: Compute the output of the frozen first layers once per row, without dropout, and skip these
            layers from then on (methods that train the last layers or the head). The only knob here that changes what
            is learned, where the model has dropout.
        expandable_segments: torch's CUDA allocator grows segments instead of asking for new ones, so that hardly any
            reserved memory is left over (``PYTORCH_ALLOC_CONF=expandable_segments:True``).
    """

    micro_batch_size: int
    gradient_accumulation_steps: int = 1
    max_seq_length: int = 128
    padded: bool = True
    gradient_checkpointing: bool = False
    reentrant_checkpointing: bool = False
    attn_implementation: AttentionImplementation = "sdpa"
    dtype: Dtype = "float32"
    amp: Amp = "none"
    optim: Optimizer = "adamw_torch_fused"
    kbit_upcast: bool = False
    zero_grad_set_to_none: bool = True
    hold_outputs: bool = False
    loss: Loss = "standard"
    eval_batch_size: int | None = None
    num_threads: int | None = None
    group_by_length: bool = False
    tf32: bool = False
    torch_compile: bool = False
    separate_documents: bool = field(default=False, metadata=LATER)
    keep_features: bool = field(default=False, metadata=LATER)
    expandable_segments: bool = field(default=False, metadata=LATER)

    def __post_init__(self) -> None:
        problems = [
            f"{name} >= 1 must hold, but got {value}"
            for name in ("micro_batch_size", "gradient_accumulation_steps", "max_seq_length", "eval_batch_size")
            if (value := getattr(self, name)) is not None and value < 1
        ]
        if self.num_threads is not None and not 1 <= self.num_threads <= MOST_THREADS:
            problems.append(f"1 <= num_threads <= {MOST_THREADS} must hold, but got {self.num_threads}")
        if self.separate_documents and self.padded:
            problems.append("documents of a block are kept apart without a padding mask, but padded is true")
        if self.separate_documents and self.attn_implementation == "flash_attention_2":
            problems.append(
                "documents of a block are kept apart by sdpa or eager attention, but attn_implementation is"
                " flash_attention_2 (--packing joined does not keep them apart)"
            )
        if problems:
            raise ValueError("; ".join(problems))

    @property
    def effective_batch_size(self) -> int:
        return self.micro_batch_size * self.gradient_accumulation_steps

    @property
    def masked(self) -> bool:
        """Whether attention needs a mask beside the causal one."""
        return self.padded or self.separate_documents

    @property
    def evaluation_batch_size(self) -> int:
        """Rows per forward pass of evaluation."""
        return self.micro_batch_size if self.eval_batch_size is None else self.eval_batch_size


@dataclass(frozen=True)
class Plan:
    """Everything that ``run`` needs, and the predicted cost.

    Attributes:
        model: The model.
        data: How to read the data set again.
        data_profile: Sizes and token lengths of the data set.
        strategy: What is learned, and how.
        execution: Settings that change only the cost.
        device: Profile id the plan was made for (``"cpu"`` profiles: the machine's own id).
        seed: Of the training.
        budget: That the plan was made for.
        predicted: The predicted cost; ``None`` in a hand-written plan.
        versions: Library versions that made the plan.
        schema_version: Of the file's format.
    """

    model: ModelSpec
    data: DataSpec
    data_profile: DataProfile
    strategy: StrategyConfig
    execution: ExecutionPlan
    device: str
    seed: int = 42
    budget: Budget = field(default_factory=Budget)
    predicted: CostEstimate | None = None
    versions: dict[str, str] = field(default_factory=dict)
    schema_version: int = field(default=SCHEMA_VERSION, compare=False)

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:  # what numpy takes
            raise ValueError(f"0 <= seed < 2**32 must hold, but got {self.seed}")

    def save(self, path: Path) -> None:
        """Write the plan as JSON, atomically."""
        write_text_atomically(path, to_json(self))


def load_plan(path: Path) -> Plan:
    """Read and validate a plan; all problems are reported together.

    Raises:
        PlanError: missing, damaged, written by a newer version, or with invalid fields.
    """
    values = read_json(path, what="the plan", error=PlanError)
    if not isinstance(values, dict):
        raise PlanError(f"a plan must be a JSON object, but {path} holds a {type(values).__name__}")
    version = values.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise PlanError(
            f"the plan's schema_version must be at most {SCHEMA_VERSION}, but {path} has {version}",
            fix="it was written by a newer finetune-advisor: upgrade, or make the plan again with this version",
        )
    return from_dict(Plan, {**values, "schema_version": SCHEMA_VERSION}, what=str(path), error=PlanError)
