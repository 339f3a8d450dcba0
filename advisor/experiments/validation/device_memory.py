"""What a GPU says about a process's memory, through a few calls that tests can answer themselves."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from advisor.core.device import DeviceProfile
from advisor.core.errors import DeviceError, RunFailed
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


@dataclass(frozen=True)
class DeviceFigures:
    """Peaks of the steps.

    Attributes:
        allocated_bytes, reserved_bytes: Of the caching allocator.
        device_bytes: What the process holds according to the driver.
        baseline_bytes: The same before the model was built: context and little else.
        allocator_retries: How often the allocator returned all cached blocks and tried again.
        reasons: Why a figure is missing, or where it comes from, by field name.
    """

    allocated_bytes: int | None = None
    reserved_bytes: int | None = None
    device_bytes: int | None = None
    baseline_bytes: int | None = None
    allocator_retries: int | None = None
    reasons: dict[str, str] = field(default_factory=dict)


class CudaCalls(Protocol):
    """The calls that decide; ``TorchCuda`` makes them, tests bring their own."""

    def empty_cache(self) -> None: ...

    def reset_peaks(self) -> None: ...

    def allocated_peak_bytes(self) -> int: ...

    def reserved_peak_bytes(self) -> int: ...

    def retries(self) -> int: ...


class TorchCuda:
    """``torch.cuda`` of the current device."""

    def empty_cache(self) -> None:
        torch.cuda.empty_cache()

    def reset_peaks(self) -> None:
        torch.cuda.reset_peak_memory_stats()

    def allocated_peak_bytes(self) -> int:
        return torch.cuda.max_memory_allocated()

    def reserved_peak_bytes(self) -> int:
        return torch.cuda.max_memory_reserved()

    def retries(self) -> int:
        return int(torch.cuda.memory_stats().get("num_alloc_retries", 0))


class CudaFigures(TrainerCallback):
    """Reads the device's figures around the steps of one Trainer run.

    Building a model leaves cached blocks behind that its steps would not have allocated; they are returned before the
    first step, so that what is read afterwards belongs to the steps. During them the driver's figure follows the
    allocator's reserve, which hardly ever shrinks, so that one reading after each step finds the peak.

    Args:
        process: The driver's figure of this process.
        calls: The allocator's.
    """

    def __init__(self, process: ProcessFigure, calls: CudaCalls | None = None) -> None:
        self._process = process
        self._calls: CudaCalls = calls or TorchCuda()
        self._baseline_bytes = process.read()
        self._peaks = DeviceFigures()
        self._retries_before = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        gc.collect()
        self._calls.empty_cache()
        self._calls.reset_peaks()
        self._retries_before = self._calls.retries()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        held_bytes, before_bytes = self._process.read(), self._peaks.device_bytes
        readings = [figure for figure in (held_bytes, before_bytes) if figure is not None]
        self._peaks = DeviceFigures(
            allocated_bytes=self._calls.allocated_peak_bytes(),
            reserved_bytes=self._calls.reserved_peak_bytes(),
            device_bytes=max(readings, default=None),
            baseline_bytes=self._baseline_bytes,
            allocator_retries=self._calls.retries() - self._retries_before,
            reasons={"device_bytes": self._process.reason},
        )

    def figures(self) -> DeviceFigures:
        """Peaks up to the last step."""
        return self._peaks


@dataclass(frozen=True)
class CudaFacts:
    """What a bare process sees of the GPU.

    Attributes:
        name: Product name.
        total_bytes: Of ``cudaMemGetInfo``.
        free_bytes: The same, with this process's context already there.
        context_bytes: The driver's figure of a process that holds nothing else; ``None`` where it has none.
        process_figure: Where that figure comes from, or why there is none.
    """

    name: str
    total_bytes: int
    free_bytes: int
    context_bytes: int | None
    process_figure: str


def cuda_facts() -> CudaFacts:
    """Look at the GPU from a process of its own, which leaves nothing behind on it.

    Raises:
        RunFailed: there is none that works; the message is torch's.
    """
    return isolated(look_at_gpu, timeout_s=120.0).unwrap()


def look_at_gpu() -> CudaFacts:
    """The same in this process."""
    figure = ProcessFigure(current_uuid)
    torch.zeros(1, device="cuda")
    context_bytes = figure.read()
    free_bytes, total_bytes = torch.cuda.mem_get_info()
    return CudaFacts(torch.cuda.get_device_name(), total_bytes, free_bytes, context_bytes, figure.reason)


def gpu_at_hand(device: DeviceProfile) -> tuple[DeviceProfile, int]:
    """The GPU's profile, with the context measured here if the probe could not, and what a process can hold of it now.

    Raises:
        DeviceError: the GPU does not work.
    """
    try:
        facts = cuda_facts()
    except RunFailed as failure:
        raise DeviceError(f"the CUDA device must work, but {failure.message}", fix="check it with nvidia-smi") from None
    context_bytes = device.context_bytes or facts.context_bytes or 0
    device = replace(device, context_bytes=context_bytes)
    return device, min(facts.total_bytes, facts.free_bytes + (facts.context_bytes or context_bytes))


def current_uuid() -> str:
    """UUID of torch's current GPU, without the ``GPU-`` prefix; empty where this torch does not say."""
    return str(getattr(torch.cuda.get_device_properties(torch.cuda.current_device()), "uuid", ""))
