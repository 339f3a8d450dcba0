"""What a device says about a process's memory, read through a few calls that tests can answer themselves."""

from __future__ import annotations

import gc
from dataclasses import dataclass, field
from typing import Protocol

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from advisor.measurement.validation.nvml_figure import ProcessFigure


@dataclass(frozen=True)
class DeviceFigures:
    """Peaks of the steps.

    Attributes:
        allocated_bytes, reserved_bytes: Of the caching allocator.
        device_bytes: What the driver says the process holds.
        baseline_bytes: The same before the model was built: context and little else.
        allocator_retries: How often the allocator gave all cached blocks back and tried again.
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

    Building a model leaves cached blocks behind that its steps would not have asked for; they are given back before the
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
