"""A ``transformers.Trainer``, put together the same way for real runs, timed steps and profiled steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from advisor.core.plan import ExecutionPlan
from advisor.core.strategy import StrategyConfig
from advisor.training.arguments import checkpoints_kept
from advisor.training.loss import evaluates_fused
from advisor.training.metrics import HeldOut
from advisor.training.optimizer import forget_earlier_overrides, own_optimizer
from advisor.training.sampling import OrderingTrainer
from advisor.training.tasks import get_task

ADAM_STATES = 2
"""Moments per trainable parameter, float32 (Kingma and Ba 2015): what a checkpoint holds besides the weights."""


def assemble_trainer(
    model: nn.Module,
    arguments: TrainingArguments,
    task: str,
    *,
    train_dataset: Any,
    collator: Any,
    eval_dataset: Any = None,
    callbacks: Sequence[TrainerCallback] = (),
    tokenizer: Any = None,
    strategy: StrategyConfig | None = None,
    execution: ExecutionPlan | None = None,
    held_out: HeldOut | None = None,
    compute_loss_func: Callable[..., torch.Tensor] | None = None,
    trainer_class: Callable[..., Trainer] = OrderingTrainer,
    reference: nn.Module | None = None,
) -> Trainer:
    """The stock Trainer around a built model.

    Nothing of its training step is overridden unless ``execution`` asks for another loop's habits (``OtherLoop``); rows
    come in an order of our own (``OrderingTrainer``).

    Args:
        model: With adapter, quantisation and checkpointing already in place.
        arguments: As ``training_arguments`` makes them.
        task: Decides loss and metrics.
        train_dataset: Map-style.
        collator: Makes batches of both data sets.
        eval_dataset: Held-out rows; ``None`` when nothing is evaluated.
        callbacks: In the order in which they are called.
        tokenizer: Saved beside every checkpoint when given.
        strategy: Options of an optimizer that the Trainer cannot make by itself.
        execution: Whether there is such an optimizer, and whose loop it is.
        held_out: Computes the task's metrics; to be asked for further ones afterwards.
        compute_loss_func: Instead of the task's own.
        trainer_class: Makes the Trainer where neither the task has one of its own nor ``execution`` asks for another
            loop's habits.
        reference: The model before training, where ``model`` is trained already and the task compares with it.

    Raises:
        InputError: the package that trains this task is not installed.
    """
    rules = get_task(task)
    trainer_class = rules.trainer_class(reference) or trainer_class
    held_out = held_out or HeldOut(rules)
    optimizer = None
    if strategy is not None and execution is not None:
        optimizer = own_optimizer(model, strategy, execution)
        forget_earlier_overrides(execution)
        if execution.hold_outputs or not execution.zero_grad_set_to_none:
            trainer_class = partial(OtherLoop, execution=execution)
    trainer: Trainer = trainer_class(
        model=model,
        args=arguments,
        data_collator=collator,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        processing_class=tokenizer,
        compute_loss_func=compute_loss_func or rules.compute_loss_func(),
        compute_metrics=held_out.compute_metrics,
        preprocess_logits_for_metrics=held_out.reduce_scores if evaluates_fused(model) else held_out.reduce_logits,
        callbacks=list(callbacks),
        optimizers=(optimizer, None),
    )
    trainer.remove_callback(PrinterCallback)  # it prints every log line to the screen
    return trainer


class OtherLoop(OrderingTrainer):
    """The Trainer with the memory habits of hand-written training loops.

    Args:
        execution: ``hold_outputs`` keeps what the model returned until the backward pass is over (as ``outputs =
            model(...)`` in a loop's body does); without ``zero_grad_set_to_none`` gradients are zeroed and stay.
    """

    def __init__(self, *args: Any, execution: ExecutionPlan, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._holds_outputs = execution.hold_outputs
        self._held: Any = None
        if not execution.zero_grad_set_to_none:
            # The Trainer calls it without arguments after every step.
            self.model.zero_grad = partial(self.model.zero_grad, set_to_none=False)

    def compute_loss(self, model: nn.Module, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
        if self._holds_outputs and model.training:
            self._held = outputs
        return (loss, outputs) if return_outputs else loss

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        self._held = None
        return loss


def disk_bytes(model: nn.Module, strategy: StrategyConfig) -> int:
    """What a run writes at most at one time: the kept checkpoints and the one being written, and the result.

    An adapter is saved alone; a model without one is saved whole. Each checkpoint adds the optimizer's states.
    """
    trainable_bytes = sum(4 * parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    whole_bytes = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    weights_bytes = trainable_bytes if hasattr(model, "peft_config") else whole_bytes
    return (checkpoints_kept(strategy) + 1) * (weights_bytes + ADAM_STATES * trainable_bytes) + weights_bytes


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
