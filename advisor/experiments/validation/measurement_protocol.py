"""What is done with a case: how many steps, and what is read around them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from advisor.core.device import DeviceType
from advisor.experiments.validation.prediction import Prepared
from advisor.experiments.validation.record import Kind, Record
from advisor.measurement.steps import StepRequest
from advisor.measurement.validation import CaseRequest

MEMORY_WARMUP_STEPS, MEMORY_STEPS = 1, 2
"""The first step makes the optimizer's states; two more show the steady state."""
TIMED_WARMUP_STEPS = 2
LONG_STEP_S, LONG_STEP_REPEATS = 2.0, 3
"""On a GPU a step that takes this long varies so little that three show its median."""
SHORT_STEP_S, SHORT_STEP_FACTOR = 0.1, 3
"""A step that is over this soon is noisy, and more of them cost nothing beside starting the process."""


@dataclass(frozen=True)
class Procedure:
    """Steps of one case.

    Attributes:
        warmup_steps: Thrown away.
        steps: Kept.
        profile_memory: One more under the memory profiler (CPU).
        reference: As in ``CaseRequest``.
    """

    warmup_steps: int
    steps: int
    profile_memory: bool
    reference: Literal["never", "after", "around"]

    @property
    def all_steps(self) -> int:
        """How many steps the case's process takes."""
        return self.warmup_steps + self.steps + int(self.profile_memory)


def procedure(record: Record, kind: Kind, device_type: DeviceType) -> Procedure:
    """The procedure of a case with a prediction.

    On CUDA memory is always read, and the reference work load, which loads kernels of its own, waits until it was.
    """
    profile_memory = device_type == "cpu" and kind != "time"
    if not record.repeats:
        return Procedure(MEMORY_WARMUP_STEPS, MEMORY_STEPS, profile_memory, "never")
    predicted_s = record.predicted.step_s if record.predicted is not None else 0.0
    steps = record.repeats
    if device_type == "cuda" and predicted_s > LONG_STEP_S:
        steps = min(steps, LONG_STEP_REPEATS)
    elif predicted_s < SHORT_STEP_S:
        steps *= SHORT_STEP_FACTOR
    around = device_type == "cpu" and not profile_memory
    return Procedure(TIMED_WARMUP_STEPS, steps, profile_memory, "around" if around else "after")


def request_of(case: Prepared, kind: Kind, device_type: DeviceType) -> CaseRequest:
    """What the measuring process is asked to do.

    Raises:
        ValueError: the case is not runnable.
    """
    if case.spec is None or case.strategy is None or case.execution is None:
        raise ValueError(f"{case.record.label} is not runnable")
    how = procedure(case.record, kind, device_type)
    steps = StepRequest(
        case.spec,
        case.strategy,
        case.execution,
        case.execution.max_seq_length,
        steps=how.steps,
        warmup_steps=how.warmup_steps,
        mixed_length_steps=case.mixed_lengths,
        device_type=device_type,
    )
    return CaseRequest(steps, case.allocator_limit_bytes, how.profile_memory, how.reference)
