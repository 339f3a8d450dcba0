"""The recipes that a plan is compared with."""

from __future__ import annotations

from advisor.core.errors import InputError
from advisor.core.plan import Plan
from advisor.experiments.speed.records import Recipe

REFERENCE_MAX_LENGTH = 128
"""``padding="max_length", max_length=128`` in the notebooks of "Efficient Fine-Tuning of Transformer Models Under
Resource Constraints" (Lee, Raghammudi, Bajaj, Velampalli, Jambunathan; DistilBERT on SST-2)."""

REFERENCE_BATCH = {"full": 8}
"""Rows per step there: 8 for full fine-tuning, and"""
REFERENCE_ADAPTER_BATCH = 32
"""32 for LoRA and QLoRA (the same source)."""


def reference_batch_size(method: str) -> int:
    """Rows per optimizer step of the published recipe for the method."""
    return REFERENCE_BATCH.get(method, REFERENCE_ADAPTER_BATCH)


def recipes_for(plan: Plan) -> tuple[Recipe, ...]:
    """The published recipe, and the Trainer's own defaults with the plan's effective batch.

    Raises:
        InputError: the task is none of theirs.
    """
    if plan.model.task != "sequence-classification":
        raise InputError(
            f"the suite speed compares classification recipes, but the task is {plan.model.task}",
            fix="name a labelled data set",
        )
    method, batch = plan.strategy.method, plan.execution.effective_batch_size
    length = min(REFERENCE_MAX_LENGTH, plan.model.max_positions or REFERENCE_MAX_LENGTH)
    return (
        Recipe(
            "reference",
            "max_length",
            length,
            reference_batch_size(method),
            f"published recipe: every row padded to {length} tokens, {reference_batch_size(method)} rows a step",
        ),
        Recipe(
            "plain",
            "longest",
            plan.execution.max_seq_length,
            batch,
            f"plain Trainer: its own collator pads to the batch's longest row, {batch} rows a step",
        ),
    )
