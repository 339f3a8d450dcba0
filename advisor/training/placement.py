"""Where a plan trains and how much room it needs on the disk."""

from __future__ import annotations

import torch
from torch import nn

from advisor.core.device import DeviceType
from advisor.core.errors import DeviceError, PlanError
from advisor.core.plan import Plan
from advisor.training.arguments import CHECKPOINTS_KEPT

ADAM_STATES = 2
"""Moments per trainable parameter, float32 (Kingma and Ba 2015): what a checkpoint holds besides the weights."""


def device_type_of(plan: Plan) -> DeviceType:
    """Where the plan trains.

    Raises:
        DeviceError: it was made for a GPU and there is none here.
        PlanError: its precision does not exist on that device.
    """
    if plan.device.startswith("cpu"):
        if plan.execution.amp == "fp16":
            raise PlanError("fp16 mixed precision needs a GPU, but the plan is for a CPU", fix="use amp bf16 or none")
        return "cpu"
    if not torch.cuda.is_available():
        raise DeviceError(
            f"the plan was made for {plan.device}, but there is no CUDA device here",
            fix="run it on that machine, or recommend a plan for this one",
        )
    return "cuda"


def disk_bytes(model: nn.Module) -> int:
    """What a run writes at most at one time: the kept checkpoints and the one being written, and the result.

    An adapter is saved alone; a model without one is saved whole. Each checkpoint adds the optimizer's states.
    """
    trainable_bytes = sum(4 * parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    whole_bytes = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    weights_bytes = trainable_bytes if hasattr(model, "peft_config") else whole_bytes
    return (CHECKPOINTS_KEPT + 1) * (weights_bytes + ADAM_STATES * trainable_bytes) + weights_bytes
