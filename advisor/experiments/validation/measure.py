"""One case for real: how many steps, in a process of their own, and what is read around them of device and driver."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from advisor.core.device import DeviceProfile
from advisor.core.errors import DeviceError, RunFailed
from advisor.experiments.grid import Cell, CellResult, Pace, cell_result
from advisor.experiments.validation.predict import Prepared
from advisor.experiments.validation.records import Kind, Measured, Record
from advisor.hardware.backends import get_backend
from advisor.hardware.backends.base import Runtime
from advisor.hardware.nvml import NvmlUnavailable, process_memory_bytes, used_bytes_by_gpu
from advisor.measurement.isolation import Result, isolated
from advisor.measurement.noise_probe import reference_seconds
from advisor.measurement.steps import StepMeasurement, StepRequest, run_steps

MEMORY_WARMUP_STEPS, MEMORY_STEPS = 1, 2
"""The first step makes the optimizer's states; two more show the steady state."""
TIMED_WARMUP_STEPS = 2
LONG_STEP_S, LONG_STEP_REPEATS = 2.0, 3
"""On a GPU a step that takes this long varies so little that three show its median."""
SHORT_STEP_S, SHORT_STEP_FACTOR = 0.1, 3
"""A step that is over this soon is noisy, and more of them cost nothing beside starting the process."""
START_S, CARD_START_S = 2.0, 6.0
"""Of a case's process before its steps: imports, model, optimizer and, on a card, the context."""
KILLED_BY_SYSTEM = "killed by the system"
Reference = Literal["never", "after", "around"]


@dataclass(frozen=True)
class MeasurementProtocol:
    """Steps of one case.

    Attributes:
        warmup_steps: Thrown away.
        steps: Kept.
        profile_memory: One more under the memory profiler (CPU).
        reference: When the reference workload is timed: around the steps, after them (it leaves a trace in the
            process's memory), or never.
    """

    warmup_steps: int
    steps: int
    profile_memory: bool
    reference: Reference

    @property
    def all_steps(self) -> int:
        """How many steps the case's process takes."""
        return self.warmup_steps + self.steps + int(self.profile_memory)


@dataclass(frozen=True)
class CaseRequest:
    """What to run.

    Attributes:
        steps: Model, method, execution, shape.
        allocator_limit_bytes: The allocator reserves no more than this, as on a smaller card (CUDA).
        reference: As in ``MeasurementProtocol``.
    """

    steps: StepRequest
    allocator_limit_bytes: int | None = None
    reference: Reference = "never"


def protocol_of(record: Record, kind: Kind, device_type: str) -> MeasurementProtocol:
    """The protocol of a case with a prediction.

    On a card memory is always read, and the reference workload, which loads kernels of its own, waits until it was.
    """
    backend = get_backend(device_type)
    profile_memory = not backend.memory.counted and kind != "time"
    if not record.repeats:
        return MeasurementProtocol(MEMORY_WARMUP_STEPS, MEMORY_STEPS, profile_memory, "never")
    predicted_s = record.predicted.step_s if record.predicted is not None else 0.0
    steps = record.repeats
    if not backend.is_host and predicted_s > LONG_STEP_S:
        steps = min(steps, LONG_STEP_REPEATS)
    elif predicted_s < SHORT_STEP_S:
        steps *= SHORT_STEP_FACTOR
    around = backend.is_host and not profile_memory
    return MeasurementProtocol(TIMED_WARMUP_STEPS, steps, profile_memory, "around" if around else "after")


def request_of(case: Prepared, kind: Kind, device_type: str) -> CaseRequest:
    """What the measuring process runs.

    Raises:
        ValueError: the case is not runnable.
    """
    if case.config is None:
        raise ValueError(f"{case.record.label} is not runnable")
    protocol, config = protocol_of(case.record, kind, device_type), case.config
    steps = StepRequest(
        config.spec,
        config.strategy,
        config.execution,
        config.execution.max_seq_length,
        steps=protocol.steps,
        warmup_steps=protocol.warmup_steps,
        mixed_length_steps=case.mixed_lengths,
        device_type=device_type,
        profile_memory=protocol.profile_memory,
    )
    return CaseRequest(steps, case.allocator_limit_bytes, protocol.reference)


@dataclass(frozen=True)
class MeasureCase:
    """Runs the cells of a validation (``runner.Execute``); a case that is not runnable ends at once.

    Attributes:
        kind: What is measured.
        device_type: Where.
        isolate: Runs a function in a process of its own.
    """

    kind: Kind
    device_type: str
    isolate: Callable[..., Result[Any]] = isolated

    def __call__(self, cell: Cell[Prepared], limit_s: float | None) -> CellResult[Measured]:
        if not cell.payload.runnable:
            return CellResult("refused", reason=cell.payload.record.reason)
        return self.measure(request_of(cell.payload, self.kind, self.device_type), limit_s)

    def expected_s(self, record: Record) -> float:
        """Predicted duration of a case's process."""
        step_s = record.predicted.step_s if record.predicted is not None else 0.0
        start_s = START_S if get_backend(self.device_type).is_host else CARD_START_S
        return start_s + step_s * protocol_of(record, self.kind, self.device_type).all_steps

    def pace(self, records: Iterable[Record]) -> Pace:
        """How long cases take, from those that earlier calls recorded."""
        completed = [record for record in records if record.outcome == "completed" and record.predicted is not None]
        return Pace(record.seconds / self.expected_s(record) for record in completed)

    def measure(self, request: CaseRequest, limit_s: float | None) -> CellResult[Measured]:
        """Run a request in a process of its own; whatever happens there is an outcome, never an exception.

        On a card a process that the kernel killed has run out of the host's memory, not of the device's: it crashed.
        """
        result = cell_result(self.isolate(run_case, request, timeout_s=limit_s))
        killed = result.outcome == "out_of_memory" and KILLED_BY_SYSTEM in result.reason
        if killed and not get_backend(request.steps.device_type).is_host:
            return replace(result, outcome="crashed", reason=f"the host's memory ran out: {result.reason}")
        return result


def run_case(request: CaseRequest) -> Measured:
    """Run a request in this process."""
    backend = get_backend(request.steps.device_type)
    backend.runtime.prepare_for(request.steps.execution)
    before = (reference_seconds(backend),) if request.reference == "around" else ()
    measured = _on_host(request.steps) if backend.is_host else _on_card(request, backend.runtime)
    after = (reference_seconds(backend),) if request.reference != "never" else ()
    return replace(measured, reference_s=(*before, *after))


def run_watched(request: StepRequest, watch: CudaFigures) -> Measured:
    """The steps with a device's figures read around them."""
    measured = run_steps(request, callbacks=(watch,))
    return _with_steps(watch.figures(), measured)


def _on_card(request: CaseRequest, runtime: Runtime) -> Measured:
    figure = ProcessFigure(current_uuid)
    torch.zeros(1, device="cuda")  # makes the context
    if request.allocator_limit_bytes is not None:
        # Bounds what the caching allocator reserves; beyond it, it retries and fails as at the end of a card.
        _, total_bytes = torch.cuda.mem_get_info()
        torch.cuda.set_per_process_memory_fraction(min(1.0, max(request.allocator_limit_bytes, 0) / total_bytes))
    return run_watched(request.steps, CudaFigures(figure, runtime))


def _on_host(request: StepRequest) -> Measured:
    measured = run_steps(request)
    reasons = {"reserved_bytes": "the CPU's allocator has no such figure", "device_bytes": "resident set"}
    if not request.profile_memory:
        reasons["allocated_bytes"] = "no step was profiled"
    figures = Measured(
        allocated_bytes=measured.allocated_peak_bytes,
        device_bytes=measured.resident_peak_bytes,
        baseline_bytes=measured.baseline_resident_bytes,
        reasons=reasons,
    )
    return _with_steps(figures, measured)


def _with_steps(figures: Measured, steps: StepMeasurement) -> Measured:
    return replace(figures, step_times_s=steps.step_times_s, trainable_parameters=steps.trainable_parameters)


PROCESS_LIST = "NVML's list of processes"
DIFFERENCE = "NVML's used memory of the device minus what was used before this process had a context"


class ProcessFigure:
    """What this process holds on its GPU, as the driver counts it.

    In a container NVML often hides the processes. Then what the device's used memory has grown by since before this
    process made its context is the same figure, as long as nobody else comes or goes. Make it before the context.

    Args:
        uuid: Of the GPU; called once the context is there.
        listed: Bytes of this process in the driver's list.
        used: Used bytes of every GPU by UUID.

    Attributes:
        reason: Where the last figure came from, or why there is none.
    """

    def __init__(
        self,
        uuid: Callable[[], str],
        listed: Callable[[str], int] = lambda uuid: process_memory_bytes(uuid=uuid),
        used: Callable[[], dict[str, int]] = used_bytes_by_gpu,
    ) -> None:
        self._uuid, self._listed, self._used = uuid, listed, used
        self._before: dict[str, int] = {}
        self.reason = "not read yet"
        try:
            self._before = used()
        except NvmlUnavailable as failure:
            self.reason = failure.message

    def read(self) -> int | None:
        """The figure now; ``None`` where the driver has none."""
        uuid = self._uuid()
        try:
            listed_bytes = self._listed(uuid)
        except NvmlUnavailable as failure:
            return self._grown(uuid, failure.message)
        self.reason = PROCESS_LIST
        return listed_bytes

    def _grown(self, uuid: str, refusal: str) -> int | None:
        before_bytes = self._before.get(uuid.removeprefix("GPU-"))
        if before_bytes is None:
            self.reason = refusal
            return None
        try:
            now_bytes = self._used().get(uuid.removeprefix("GPU-"))
        except NvmlUnavailable as failure:
            self.reason = failure.message
            return None
        self.reason = DIFFERENCE
        return None if now_bytes is None else now_bytes - before_bytes


class CudaFigures(TrainerCallback):
    """Reads the device's figures around the steps of one Trainer run.

    Building a model leaves cached blocks behind that its steps would not have allocated; they are returned before the
    first step, so that what is read afterwards belongs to the steps. During them the driver's figure follows the
    allocator's reserve, which hardly ever shrinks, so that one reading after each step finds the peak.

    Args:
        process: The driver's figure of this process.
        runtime: The device; counts what the allocator hands out.
        retries: How often the allocator has returned all cached blocks and tried again.
    """

    def __init__(self, process: ProcessFigure, runtime: Runtime, retries: Callable[[], int] | None = None) -> None:
        self._process, self._runtime = process, runtime
        self._retries = retries or (lambda: int(torch.cuda.memory_stats().get("num_alloc_retries", 0)))
        self._baseline_bytes = process.read()
        self._peaks = Measured()
        self._retries_before = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        gc.collect()
        self._runtime.release_cached()
        self._runtime.reset_peaks()
        self._retries_before = self._retries()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        held_bytes, before_bytes = self._process.read(), self._peaks.device_bytes
        readings = [figure for figure in (held_bytes, before_bytes) if figure is not None]
        allocated_bytes, reserved_bytes = self._runtime.peaks()
        self._peaks = Measured(
            allocated_bytes=allocated_bytes,
            reserved_bytes=reserved_bytes,
            device_bytes=max(readings, default=None),
            baseline_bytes=self._baseline_bytes,
            allocator_retries=self._retries() - self._retries_before,
            reasons={"device_bytes": self._process.reason},
        )

    def figures(self) -> Measured:
        """Peaks up to the last step."""
        return self._peaks


def gpu_at_hand(device: DeviceProfile) -> tuple[DeviceProfile, int]:
    """The GPU's profile, with the context measured here if the probe could not, and what a process can hold of it now.

    Raises:
        DeviceError: the GPU does not work.
    """
    try:
        total_bytes, free_bytes, measured_bytes = isolated(look_at_gpu, timeout_s=120.0).unwrap()
    except RunFailed as failure:
        raise DeviceError(f"the CUDA device must work, but {failure.message}", fix="check it with nvidia-smi") from None
    context_bytes = device.context_bytes or measured_bytes or 0
    return replace(device, context_bytes=context_bytes), min(
        total_bytes, free_bytes + (measured_bytes or context_bytes)
    )


def look_at_gpu() -> tuple[int, int, int | None]:
    """Total and free bytes as a bare process sees them, and the driver's figure of that process: its context."""
    figure = ProcessFigure(current_uuid)
    torch.zeros(1, device="cuda")
    context_bytes = figure.read()
    free_bytes, total_bytes = torch.cuda.mem_get_info()
    return total_bytes, free_bytes, context_bytes


def current_uuid() -> str:
    """UUID of torch's current GPU, without the ``GPU-`` prefix; empty where this torch does not say."""
    return str(getattr(torch.cuda.get_device_properties(torch.cuda.current_device()), "uuid", ""))
