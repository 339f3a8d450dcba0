"""What a language model forgot: its perplexity on general text before and after it was trained."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import torch

from advisor.core.benchmark import MeasuredFigure
from advisor.core.errors import InputError
from advisor.core.plan import Plan
from advisor.hardware.backends.base import Runtime
from advisor.measurement.inference import precision
from advisor.training.build import build_base
from advisor.training.data import prepare_data, resolve_data
from advisor.training.data.collators import BlockCollator
from advisor.training.quality import perplexity_of_tokens
from advisor.training.switches import backend_of_plan
from advisor.training.tasks import get_task

GENERAL_SHARE = 0.5
"""Share of the text that is measured on, before the cap."""
MOST_BLOCKS = 64
"""Blocks of the run's own length that are measured on."""


def check_general_text(plan: Plan, source: str) -> None:
    """Refuse general text for a task that has no perplexity of it, or that is not there.

    Raises:
        InputError: the task does not predict the next token.
        DataError: the text cannot be found or read.
    """
    if not plan.model.traits.predicts_next_token:
        raise InputError(
            f"forgetting is measured for models that predict the next token, but the task is {plan.model.task}",
            fix="leave out --general-text",
        )
    resolve_data(source, task=plan.model.task)


def general_perplexity(model: Any, plan: Plan, source: str, tokenizer: Any) -> tuple[float, int]:
    """Perplexity of a model on general text, and the tokens it was measured on.

    Raises:
        DataError: the text cannot be read, or fills no block.
    """
    spec = resolve_data(source, task=plan.model.task, eval_fraction=GENERAL_SHARE, max_eval_rows=MOST_BLOCKS)
    data = prepare_data(spec, plan.model, tokenizer, max_seq_length=plan.execution.max_seq_length)
    task, place = get_task(plan.model.task), next(model.parameters()).device
    collate = data.collator if data.padded else BlockCollator()
    rows, size = [], plan.execution.evaluation_batch_size
    model.eval()
    with torch.no_grad(), precision(place.type, plan.execution):
        for start in range(0, len(data.eval_dataset), size):
            chosen = range(start, min(start + size, len(data.eval_dataset)))
            batch = {name: part.to(place) for name, part in collate([data.eval_dataset[i] for i in chosen]).items()}
            labels = batch.pop("labels")
            rows.append(task.reduce_logits(model(**batch)["logits"], labels).cpu().numpy())
    nll, tokens = np.concatenate(rows).T[:2].astype(np.float64)
    return perplexity_of_tokens(nll, tokens), int(tokens.sum())


def forgetting(model: Any, plan: Plan, source: str, tokenizer: Any, runtime: Runtime) -> dict[str, MeasuredFigure]:
    """Perplexity before and after training, and the relative increase.

    Args:
        model: The trained one; it stays loaded while the base model is measured.
        plan: Of the run; the base model is built anew from it.
        source: General text: a file, or the name of a data set.
        tokenizer: The model's own.
        runtime: Of the device.

    Raises:
        DataError: the text cannot be read, or fills no block.
    """
    after, tokens = general_perplexity(model, plan, source, tokenizer)
    base = build_base(plan.model, plan.strategy, plan.execution, device=backend_of_plan(plan).torch_device)
    before, _ = general_perplexity(base, plan, source, tokenizer)
    del base
    gc.collect()
    runtime.release_cached()
    how = f"perplexity of {tokens} tokens of {source} in blocks of {plan.execution.max_seq_length}"
    return {
        "before": MeasuredFigure(before, f"{how}, by the model that was fine-tuned", samples=tokens),
        "after": MeasuredFigure(after, f"{how}, by the trained model", samples=tokens),
        "increase": MeasuredFigure(after / before - 1, "after over before, minus one", samples=tokens),
    }
