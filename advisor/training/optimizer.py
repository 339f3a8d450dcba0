"""The optimizer that the stock Trainer makes, without a Trainer: used by the cost model on fake parameters."""

from __future__ import annotations

import dataclasses

import torch
from torch import nn
from transformers import Trainer

from advisor.core.plan import ExecutionPlan
from advisor.core.strategy import StrategyConfig
from advisor.training.arguments import training_arguments


def create_optimizer(model: nn.Module, strategy: StrategyConfig, execution: ExecutionPlan) -> torch.optim.Optimizer:
    """Exactly the optimizer of ``Trainer.create_optimizer`` for these arguments: parameter groups, class and options.

    The Trainer's own code makes it: it reads four attributes of the Trainer and nothing else, so a bare instance that
    never went through ``__init__`` (which would move the model and start accelerate) is enough. Works on real, meta and
    fake parameters; the 8-bit optimizers need real ones, because bitsandbytes asks embeddings for their address.

    Args:
        model: With ``requires_grad`` already decided by the strategy.
        strategy: Learning rate and weight decay.
        execution: Optimizer implementation; batch sizes and precision do not matter here.
    """
    trainer = object.__new__(Trainer)
    trainer.model = model
    trainer.args = training_arguments(strategy, _without_precision(execution), "unused")
    trainer.optimizer = None
    trainer.optimizer_cls_and_kwargs = None
    return trainer.create_optimizer()


def _without_precision(execution: ExecutionPlan) -> ExecutionPlan:
    """The same plan in full precision: mixed precision is checked against the local device, which may not be the
    target.
    """
    return dataclasses.replace(execution, amp="none")
