"""What several cards add to a step: collectives over gradients and sharded weights. Extrapolated, always.

Ring collectives move, per card, ``2 (n - 1) / n`` of the tensor for an all-reduce and ``(n - 1) / n`` of it for an
all-gather or a reduce-scatter (nccl-tests, PERFORMANCE.md). Per micro-batch or optimizer step:

* DDP: one all-reduce of the trained parameters' gradients per optimizer step (no_sync in between).
* FSDP (FULL_SHARD): for every micro-batch an all-gather of all weights for the forward pass, one for the backward pass
  (checkpointing's recomputation uses the same), and a reduce-scatter of the trained parameters' gradients; each card
  updates its own shard.

Nothing of it is hidden behind computation. 114 public steps of full fine-tuning under FSDP on two to eight
A100-SXM4-80GB say so: adding the term leaves a median error of 3.8 %, running it beside the computation 8.9 %; the
transfers take processors from the matrix products and start a layer late. No public DDP step was at hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from advisor.core.device import DeviceProfile
from advisor.core.errors import InputError
from advisor.costmodel.time.operator_times import OperatorClock
from advisor.costmodel.time.step import StepTime, optimizer_step, phase_seconds, step_time
from advisor.tracing.ops import TracedOp

NVLINK_EFFICIENCY = 0.78
"""Share of NVLink's bandwidth that large collectives reach: 230-240 GB/s bus bandwidth of 300 GB/s per direction on
eight A100 (public nccl-tests all-reduce results)."""
PCIE_EFFICIENCY = 0.65
"""Assumed beforehand for cards that share a host's PCIe switches and root ports."""
COMMUNICATION_FACTOR = 2.0
"""90 % interval of the term, as a factor either way: topology and library versions are not known."""

ParallelKind = Literal["ddp", "fsdp"]


@dataclass(frozen=True)
class Parallelism:
    """How a step is spread over cards of one host.

    Attributes:
        kind: Data parallel with whole weights everywhere, or with everything sharded.
        devices: Number of cards; each runs the micro-batch.
    """

    kind: ParallelKind
    devices: int

    def __post_init__(self) -> None:
        if self.devices < 1:
            raise InputError(f"the number of devices must be at least 1, but got {self.devices}", fix="name 1 or more")


@dataclass(frozen=True)
class Traffic:
    """What the collectives carry.

    Attributes:
        weights_bytes: All weights in the data type they are stored in.
        gradients_bytes: Gradients of the trained parameters.
    """

    weights_bytes: float
    gradients_bytes: float


def communication_seconds(
    parallelism: Parallelism, traffic: Traffic, device: DeviceProfile, gradient_accumulation_steps: int = 1
) -> float:
    """Collectives of one optimizer step.

    Raises:
        InputError: the profile states no bandwidth between cards.
    """
    n = parallelism.devices
    if n == 1:
        return 0.0
    once = (n - 1) / n / collective_bandwidth(device)
    if parallelism.kind == "ddp":
        return 2 * once * traffic.gradients_bytes
    return once * gradient_accumulation_steps * (2 * traffic.weights_bytes + traffic.gradients_bytes)


def collective_bandwidth(device: DeviceProfile) -> float:
    """Bytes per second and direction that collectives reach: over the profile's interconnect, else over PCIe.

    Raises:
        InputError: the profile states neither.
    """
    rates = device.bytes_per_s
    if "interconnect" in rates:
        return rates["interconnect"].value * NVLINK_EFFICIENCY
    if "host_to_device" in rates:
        return rates["host_to_device"].value * PCIE_EFFICIENCY
    raise InputError(
        "collectives need bytes_per_s.interconnect or bytes_per_s.host_to_device, but the profile of "
        f"{device.id} has {', '.join(sorted(rates)) or 'no bandwidth'}",
        fix="add the bandwidth per direction to the profile",
    )


def parallel_step_time(
    operators: Sequence[TracedOp],
    parallelism: Parallelism,
    traffic: Traffic,
    device: DeviceProfile,
    gradient_accumulation_steps: int = 1,
) -> StepTime:
    """One optimizer step on several cards: what one card computes, plus the collectives.

    Raises:
        InputError: the profile lacks rates.
    """
    phases = phase_seconds(operators, OperatorClock(device))
    if parallelism.kind == "fsdp" and "optimizer" in phases:
        update = phases["optimizer"]
        phases["optimizer"] = type(update)(
            update.device_s / parallelism.devices, update.operators, update.uncovered_s / parallelism.devices
        )
    alone = step_time(optimizer_step(phases, gradient_accumulation_steps), device)
    moved_s = communication_seconds(parallelism, traffic, device, gradient_accumulation_steps)
    return StepTime(
        alone.seconds + moved_s,
        alone.low + moved_s / COMMUNICATION_FACTOR,
        alone.high + moved_s * COMMUNICATION_FACTOR,
        "extrapolated",
        alone.basis,
        alone.host_bound,
    )
