"""The steps of one case, in a process of their own, with a typed end."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from advisor.measurement.isolation import Result, isolated
from advisor.measurement.steps import StepMeasurement, StepRequest, run_steps
from advisor.measurement.validation.cuda import current_uuid
from advisor.measurement.validation.figures import CudaFigures, DeviceFigures
from advisor.measurement.validation.nvml_figure import ProcessFigure

KILLED_BY_SYSTEM = "killed by the system"


@dataclass(frozen=True)
class CaseRequest:
    """What to run.

    Attributes:
        steps: Model, method, execution, shape.
        allocator_limit_bytes: The allocator reserves no more than this, as on a smaller card (CUDA).
    """

    steps: StepRequest
    allocator_limit_bytes: int | None = None


@dataclass(frozen=True)
class CaseMeasurement:
    """What the steps took.

    Attributes:
        figures: Memory.
        step_times_s: Of the steps after the warm-up.
        trainable_parameters: Counted on the model.
    """

    figures: DeviceFigures
    step_times_s: tuple[float, ...]
    trainable_parameters: int


def measure_case(request: CaseRequest, *, timeout_s: float | None = None) -> Result[CaseMeasurement]:
    """Run a case in a process of its own; whatever happens there is an outcome, never an exception.

    On CUDA a process that the kernel killed has run out of the host's memory, not of the device's: it ``failed``.
    """
    result = isolated(run_case, request, timeout_s=timeout_s)
    killed = result.outcome == "out_of_memory" and KILLED_BY_SYSTEM in result.reason
    if killed and request.steps.device_type == "cuda":
        return replace(result, outcome="failed", reason=f"the host's memory ran out: {result.reason}")
    return result


def run_case(request: CaseRequest) -> CaseMeasurement:
    """The same in this process."""
    if request.steps.device_type == "cpu":
        return _on_cpu(request.steps)
    figure = ProcessFigure(current_uuid)
    torch.zeros(1, device="cuda")  # makes the context
    if request.allocator_limit_bytes is not None:
        _limit_allocator(request.allocator_limit_bytes)
    return run_watched(request.steps, CudaFigures(figure))


def run_watched(request: StepRequest, watch: CudaFigures) -> CaseMeasurement:
    """The steps with a device's figures read around them."""
    measured = run_steps(request, callbacks=(watch,))
    return _measurement(measured, watch.figures())


def _on_cpu(request: StepRequest) -> CaseMeasurement:
    measured = run_steps(replace(request, profile_memory=True))
    figures = DeviceFigures(
        allocated_bytes=measured.allocated_peak_bytes,
        device_bytes=measured.resident_peak_bytes,
        baseline_bytes=measured.baseline_resident_bytes,
        reasons={"reserved_bytes": "the CPU's allocator has no such figure", "device_bytes": "resident set"},
    )
    return _measurement(measured, figures)


def _measurement(measured: StepMeasurement, figures: DeviceFigures) -> CaseMeasurement:
    return CaseMeasurement(figures, measured.step_times_s, measured.trainable_parameters)


def _limit_allocator(limit_bytes: int) -> None:
    """``set_per_process_memory_fraction`` bounds what the caching allocator reserves; beyond it, it retries and fails
    as at the end of a card.
    """
    _, total_bytes = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction(min(1.0, max(limit_bytes, 0) / total_bytes))
