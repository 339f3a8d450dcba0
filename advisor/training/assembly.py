"""A stock ``transformers.Trainer``, put together the same way for real runs, timed steps and profiled steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from advisor.core.model import Task
from advisor.training.metrics import compute_metrics, reduce_logits


def assemble_trainer(
    model: nn.Module,
    arguments: TrainingArguments,
    task: Task,
    *,
    train_dataset: Any,
    collator: Any,
    eval_dataset: Any = None,
    callbacks: Sequence[TrainerCallback] = (),
    tokenizer: Any = None,
) -> Trainer:
    """The unpatched Trainer around a built model; nothing of its training step is overridden.

    Args:
        model: With adapter, quantisation and checkpointing already in place.
        arguments: As ``training_arguments`` makes them.
        task: Decides the metrics.
        train_dataset: Map-style.
        collator: Makes batches of both data sets.
        eval_dataset: Held-out rows; ``None`` when nothing is evaluated.
        callbacks: In the order in which they are called.
        tokenizer: Saved beside every checkpoint when given.
    """
    trainer = Trainer(
        model=model,
        args=arguments,
        data_collator=collator,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        processing_class=tokenizer,
        compute_metrics=compute_metrics(task),
        preprocess_logits_for_metrics=reduce_logits(task),
        callbacks=list(callbacks),
    )
    trainer.remove_callback(PrinterCallback)  # it prints every log line to the screen
    return trainer


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Trainable and total parameters; tied ones once, 4-bit ones at their logical size (two values share a byte)."""
    trainable = total = 0
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        shape = getattr(state, "shape", None)
        count = int(torch.Size(shape).numel()) if shape is not None else parameter.numel()
        total += count
        trainable += count if parameter.requires_grad else 0
    return trainable, total
