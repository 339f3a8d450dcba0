"""The parts of a probe that only a CUDA device has: identity, the driver's view before and under load, the context."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from advisor.hardware.context import cuda_context, describe_cuda, loaded_gpu
from advisor.hardware.gpu_state import GpuState, gpu_state
from advisor.hardware.kernels import first_line
from advisor.hardware.nvml import NvmlUnavailable

Emit = Callable[..., None]


def describe(device: str, gpus: Mapping[str, GpuState], refused: str, emit: Emit) -> tuple[int, int] | None:
    """Emit what torch and the driver say about the device.

    Args:
        device: ``"cuda:N"``.
        gpus: States from before this process touched CUDA, by UUID.
        refused: Why there are none.
        emit: Receives findings.

    Returns:
        The compute capability; ``None`` when the device has no room even for a context, which ends the probe.
    """
    import torch

    try:
        torch.cuda.set_device(device)
        found = describe_cuda(device)
    except RuntimeError as failure:
        emit(
            kind="error",
            message=f"the device must have room for a CUDA context, but it said: {first_line(failure)}",
            fix="end other processes on it (nvidia-smi lists them), or probe another device",
        )
        return None
    emit(kind="card", **found)
    idle = gpus.get(found["uuid"].removeprefix("GPU-"))
    if idle is not None:
        emit(kind="gpu", moment="idle", state=dataclasses.asdict(idle))
    else:
        _emit_late_state(found["uuid"], refused, emit)
    return int(found["capability"][0]), int(found["capability"][1])


def _emit_late_state(uuid: str, refused: str, emit: Emit) -> None:
    """A part of a GPU is not in the list of GPUs: asked for by its UUID, after CUDA has started."""
    try:
        emit(kind="gpu", moment="started", state=dataclasses.asdict(gpu_state(uuid)))
    except NvmlUnavailable as failure:
        emit(kind="fact", name="nvml", value="no", reason=refused or failure.message)


def look_back(device: str, gpus: Mapping[str, GpuState], dtype: str, side: int, emit: Emit) -> None:
    """Emit clocks and power under load, and what the process holds on the device after its work.

    Args:
        device: ``"cuda:N"``.
        gpus: States from before this process touched CUDA, by UUID.
        dtype: Data type of the load, a product of square matrices.
        side: Of these.
        emit: Receives findings.
    """
    import torch

    uuid = str(getattr(torch.cuda.get_device_properties(device), "uuid", ""))
    try:
        loaded = loaded_gpu(device, uuid, dtype, side)
        emit(kind="gpu", moment="loaded", state=dataclasses.asdict(loaded))
    except NvmlUnavailable:
        pass  # said already when it was asked the first time
    except RuntimeError as failure:
        emit(kind="fact", name="clocks under load", value="unknown", reason=first_line(failure))
    try:
        found = cuda_context(device, uuid, gpus.get(uuid.removeprefix("GPU-")))
    except RuntimeError as failure:
        emit(kind="fact", name="context", value="unknown", reason=first_line(failure))
        return
    if found is not None:
        emit(kind="context", bytes=found[0], reason=found[1])
