"""Measured steps, and their work in a form on which any efficiencies can be tried quickly."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from advisor.core.device import DeviceProfile
from advisor.costmodel.time.rates import ATTENTION_CLASSES, Efficiencies
from advisor.costmodel.time.step import optimizer_step, phase_seconds, side_by_side
from advisor.costmodel.time.table import OperatorClock, OperatorSeconds
from advisor.costmodel.trace.ops import TracedOp

_ALONE = {
    "launch": Efficiencies(math.inf, math.inf, math.inf),
    "arithmetic": Efficiencies(1.0, 1.0, math.inf),
    "traffic": Efficiencies(math.inf, math.inf, 1.0),
}
"""Efficiencies under which an operator takes as long as launching it, and that plus its arithmetic or traffic."""

SMALL = 1e-4
"""Relative step of a numerical derivative."""


@dataclass(frozen=True)
class TimedStep:
    """One measured configuration.

    Attributes:
        operators: Of the traced step, as ``StepFamily.operators`` gives them.
        seconds: Wall clock of one optimizer step.
        gradient_accumulation_steps: Micro-batches in it.
        tf32: Products of float32 tensors used TensorFloat-32.
    """

    operators: tuple[TracedOp, ...]
    seconds: float
    gradient_accumulation_steps: int = 1
    tf32: bool = False


def step_seconds(step: TimedStep, device: DeviceProfile, efficiencies: Efficiencies) -> float:
    """Time of the step's operators under these efficiencies."""
    clock = OperatorClock(device, tf32=step.tf32, efficiencies=efficiencies)
    return _wall_s(step_total(step, clock), efficiencies, device)


def step_total(step: TimedStep, clock: OperatorClock) -> OperatorSeconds:
    """All operators of the step by this clock."""
    return optimizer_step(phase_seconds(step.operators, clock), step.gradient_accumulation_steps)


class StepWork:
    """A measured step, boiled down to what ``step_seconds`` depends on: some 10,000 evaluations a fit takes.

    An operator takes its launch plus the slower of arithmetic and traffic (``time.rates``), each of which is inversely
    proportional to a share; so the two at a share of 1 say everything.

    Attributes:
        seconds: As measured.
    """

    def __init__(self, step: TimedStep, device: DeviceProfile) -> None:
        self.seconds = step.seconds
        self._device = device
        self._micro_batches = step.gradient_accumulation_steps
        clocks = {what: OperatorClock(device, tf32=step.tf32, efficiencies=alone) for what, alone in _ALONE.items()}
        self._phases: dict[str, _Phase] = {
            name: _Phase([op for op in step.operators if op.phase == name], clocks)
            for name in dict.fromkeys(op.phase for op in step.operators)
        }

    def step_s(self, efficiencies: Efficiencies) -> float:
        """The same as ``step_seconds``."""
        return _wall_s(self._total(efficiencies), efficiencies, self._device)

    def device_share(self, efficiencies: Efficiencies) -> float:
        """By which part the step gets longer where the device's time does; the rest waits for the host."""
        total = self._total(efficiencies)
        wall_s = _wall_s(total, efficiencies, self._device)
        longer = dataclasses.replace(total, device_s=total.device_s * (1 + SMALL))
        return (_wall_s(longer, efficiencies, self._device) / wall_s - 1) / SMALL

    def _total(self, efficiencies: Efficiencies) -> OperatorSeconds:
        phases = {name: phase.total(efficiencies) for name, phase in self._phases.items()}
        return optimizer_step(phases, self._micro_batches)


class _Phase:
    """The operators of one phase of a step as columns."""

    def __init__(self, operators: Sequence[TracedOp], clocks: dict[str, OperatorClock]) -> None:
        def column(what: str) -> npt.NDArray[np.float64]:
            return np.array([clocks[what].seconds(op)[0] for op in operators], dtype=np.float64)

        self._launch_s = column("launch")
        self._arithmetic_s = column("arithmetic") - self._launch_s
        self._traffic_s = column("traffic") - self._launch_s
        self._attention = np.array([clocks["launch"].kind(op) in ATTENTION_CLASSES for op in operators], dtype=bool)
        self._counts = np.array([op.count for op in operators], dtype=np.float64)

    def total(self, efficiencies: Efficiencies) -> OperatorSeconds:
        share = np.where(self._attention, efficiencies.attention, efficiencies.gemm)
        slower_s = np.maximum(self._arithmetic_s / share, self._traffic_s / efficiencies.bandwidth)
        device_s = float((self._launch_s + slower_s) @ self._counts)
        return OperatorSeconds(device_s, float(self._counts.sum()))


def _wall_s(total: OperatorSeconds, efficiencies: Efficiencies, device: DeviceProfile) -> float:
    return side_by_side(total.operators * efficiencies.host_s_per_operator, total.device_s, device.type)
