"""The steps of one case, in a process of their own, with a typed end."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch

from advisor.hardware.cpu_process import prepare_process
from advisor.measurement.isolation import Result, isolated
from advisor.measurement.noise_probe import reference_seconds
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
        profile_memory: Add a step under the memory profiler after the timed ones (CPU).
        reference: When the machine's own speed is taken: around the steps, after them (it leaves a trace in the
            process's memory), or never.
    """

    steps: StepRequest
    allocator_limit_bytes: int | None = None
    profile_memory: bool = True
    reference: Literal["never", "after", "around"] = "never"


@dataclass(frozen=True)
class CaseMeasurement:
    """What the steps took.

    Attributes:
        figures: Memory.
        step_times_s: Of the steps after the warm-up.
        reference_s: Of the reference work load, as often as it was asked for.
        trainable_parameters: Counted on the model.
    """

    figures: DeviceFigures
    step_times_s: tuple[float, ...]
    trainable_parameters: int
    reference_s: tuple[float, ...] = ()


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
    device_type = request.steps.device_type
    prepare_process(device_type, request.steps.execution.num_threads)
    before = (reference_seconds(device_type),) if request.reference == "around" else ()
    measured = _on_cpu(request) if device_type == "cpu" else _on_cuda(request)
    after = (reference_seconds(device_type),) if request.reference != "never" else ()
    return replace(measured, reference_s=(*before, *after))


def _on_cuda(request: CaseRequest) -> CaseMeasurement:
    figure = ProcessFigure(current_uuid)
    torch.zeros(1, device="cuda")  # makes the context
    if request.allocator_limit_bytes is not None:
        _limit_allocator(request.allocator_limit_bytes)
    return run_watched(request.steps, CudaFigures(figure))


def run_watched(request: StepRequest, watch: CudaFigures) -> CaseMeasurement:
    """The steps with a device's figures read around them."""
    measured = run_steps(request, callbacks=(watch,))
    return _measurement(measured, watch.figures())


def _on_cpu(request: CaseRequest) -> CaseMeasurement:
    measured = run_steps(replace(request.steps, profile_memory=request.profile_memory))
    reasons = {"reserved_bytes": "the CPU's allocator has no such figure", "device_bytes": "resident set"}
    if not request.profile_memory:
        reasons["allocated_bytes"] = "no step was profiled"
    figures = DeviceFigures(
        allocated_bytes=measured.allocated_peak_bytes,
        device_bytes=measured.resident_peak_bytes,
        baseline_bytes=measured.baseline_resident_bytes,
        reasons=reasons,
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
