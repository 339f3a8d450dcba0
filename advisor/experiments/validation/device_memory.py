"""What a GPU and its driver say about a process's memory."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from advisor.core.device import DeviceProfile
from advisor.core.errors import DeviceError, RunFailed
from advisor.experiments.validation.records import Measured
from advisor.hardware.backends.base import Runtime
from advisor.hardware.nvml import NvmlUnavailable, process_memory_bytes, used_bytes_by_gpu
from advisor.measurement.isolation import isolated

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
