"""Where a plan trains and how much room it needs on the disk."""

from __future__ import annotations

from torch import nn

from advisor.core.errors import DeviceError, PlanError
from advisor.core.plan import Plan
from advisor.hardware.backends import Backend, backend_of, backend_of_id
from advisor.hardware.profiles import load_profile, profile_names
from advisor.training.arguments import CHECKPOINTS_KEPT

ADAM_STATES = 2
"""Moments per trainable parameter, float32 (Kingma and Ba 2015): what a checkpoint holds besides the weights."""


def backend_of_plan(plan: Plan) -> Backend:
    """Where the plan trains.

    Raises:
        DeviceError: there is no such device here, or its back end cannot train yet.
        PlanError: the plan's switches do not exist on that kind of device.
    """
    known = plan.device in profile_names()
    backend = backend_of(load_profile(plan.device)) if known else backend_of_id(plan.device)
    if refusals := backend.refusals(plan.execution, here=False):
        (rule, fix), *others = refusals
        raise PlanError(rule, fix=fix, problems=[f"{also}; {way_out}" for also, way_out in others])
    if not backend.runtime.count():
        raise DeviceError(
            f"the plan was made for {plan.device}, but there is no {backend.name.upper()} device here",
            fix="run it on that machine, or recommend a plan for this one",
        )
    return backend


def disk_bytes(model: nn.Module) -> int:
    """What a run writes at most at one time: the kept checkpoints and the one being written, and the result.

    An adapter is saved alone; a model without one is saved whole. Each checkpoint adds the optimizer's states.
    """
    trainable_bytes = sum(4 * parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    whole_bytes = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    weights_bytes = trainable_bytes if hasattr(model, "peft_config") else whole_bytes
    return (CHECKPOINTS_KEPT + 1) * (weights_bytes + ADAM_STATES * trainable_bytes) + weights_bytes
