"""Which sets of switches a method is looked at with."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from advisor.core.device import DeviceProfile
from advisor.core.model import ModelSpec
from advisor.core.strategy import StrategyConfig
from advisor.hardware.backends import backend_of
from advisor.search.fitting.records import Switches
from advisor.search.planner.precision import (
    PrecisionPolicy,
    attention_kernels,
    cpu_precisions,
    is_frozen_base,
    precision_policies,
)


def rungs(device: DeviceProfile, model: ModelSpec, strategy: StrategyConfig) -> tuple[PrecisionPolicy, ...]:
    """Data types and optimizers in the order to prefer them: the precision_policies that ``recommend`` climbs down."""
    return cpu_precisions(device) if backend_of(device).setups.compared else precision_policies(device, model, strategy)


def switches(
    device: DeviceProfile, model: ModelSpec, rung: PrecisionPolicy, *, checkpointing: bool
) -> Iterator[Switches]:
    """The rung with each attention kernel that is open to it, preferred first; the first that can be traced counts."""
    for kernel in attention_kernels(device, model, rung):
        yield Switches(checkpointing, rung.dtype, rung.amp, rung.optim, kernel)


def on_card(setup: Switches, device: DeviceProfile, strategy: StrategyConfig) -> Switches | None:
    """The same set-up with what ``device`` has: float16 for bfloat16 where only adapters or float32 weights train.

    ``None`` when the device has no data type for it: the gradient scaler refuses trainable float16 weights
    (torch.amp.GradScaler).
    """
    if (setup.dtype != "bfloat16" and setup.amp != "bf16") or "bfloat16" in device.dtypes:
        return setup
    if "float16" not in device.dtypes or (setup.dtype == "bfloat16" and not is_frozen_base(strategy)):
        return None
    return dataclasses.replace(
        setup,
        dtype="float16" if setup.dtype == "bfloat16" else setup.dtype,
        amp="fp16",
    )
