"""What a training process holds besides its tensors: libraries on CPU, the CUDA context on a GPU."""

from __future__ import annotations

import importlib
import importlib.metadata
import math
from typing import Any

from advisor.core.code_version import MODEL_LIBRARIES
from advisor.hardware.gpu_state import GpuState, all_gpu_states, gpu_state
from advisor.hardware.host_process import resident_bytes
from advisor.hardware.nvml import NvmlUnavailable, nvml_library, process_memory_bytes

TRAINING_IMPORTS = (*MODEL_LIBRARIES, "transformers.trainer", "accelerate", "safetensors.torch")
"""What a training process has imported before it builds its model."""
LOAD_S = 0.3
"""How long a GPU is kept busy before its clocks and power are read: several times what they need to rise."""
READING_S, MOST_QUEUED = 0.1, 1000
"""How long it must stay busy while they are read: some fifteen questions of about a millisecond, with room. Products
queued for it at most: the driver makes the host wait behind some 1,024 launches."""


def library_versions() -> str:
    """Versions of what a training process imports, as one line; nothing is imported."""
    packages = sorted({"bitsandbytes", *(module.split(".")[0] for module in TRAINING_IMPORTS)})
    found = []
    for package in packages:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{package} absent")
    return ", ".join(found)


def import_training_libraries() -> tuple[int, str]:
    """Import what a training process imports.

    Returns:
        Resident bytes of this process afterwards, and how that came about.
    """
    imported, missing = [], []
    for module in TRAINING_IMPORTS:
        try:
            importlib.import_module(module)
            imported.append(module)
        except ImportError:
            missing.append(module)
    without = f", without {', '.join(missing)} (not importable)" if missing else ""
    return resident_bytes(), f"resident set of a fresh process after importing {', '.join(imported)}{without}"


def idle_gpus() -> tuple[dict[str, GpuState], str]:
    """Every GPU before this process touches CUDA, by UUID; and why there are none."""
    try:
        return all_gpu_states(), ""
    except NvmlUnavailable as failure:
        return {}, failure.message


def loaded_gpu(device: str, uuid: str, dtype: str, side: int) -> GpuState:
    """The GPU's state while it multiplies matrices; clocks and power of an idle one say nothing.

    Args:
        device: ``"cuda:N"``.
        uuid: Of that device.
        dtype: Data type of the product.
        side: Of its matrices.

    Raises:
        NvmlUnavailable: NVML cannot be used.
        RuntimeError: the device is too full for the product.
    """
    import time

    import torch

    with nvml_library():  # started beforehand: that takes longer than all the questions
        left = torch.randn(side, side, device=device, dtype=getattr(torch, dtype))
        out = torch.empty_like(left)
        begin, calls, spent_s = time.monotonic(), 0, 0.0
        while not calls or spent_s < LOAD_S:
            for _ in range(10):
                torch.mm(left, left, out=out)
            torch.cuda.synchronize()
            calls, spent_s = calls + 10, time.monotonic() - begin
        for _ in range(min(MOST_QUEUED, math.ceil(READING_S * calls / max(spent_s, 1e-9)))):
            torch.mm(left, left, out=out)
        try:
            return gpu_state(uuid)  # the queue is still being worked off
        finally:
            torch.cuda.synchronize()


def cuda_context(device: str, uuid: str, idle: GpuState | None) -> tuple[int, str] | None:
    """Context and loaded kernels: what the driver counts beyond the allocator's reserve, after kernels ran.

    Args:
        device: ``"cuda:N"``, already used.
        uuid: Of that device.
        idle: Its state before this process touched CUDA.

    Returns:
        Bytes and how they were found; ``None`` when the driver shows neither processes nor totals.
    """
    import torch

    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    reserved = torch.cuda.memory_reserved(device)
    try:
        held = process_memory_bytes(uuid=uuid)
    except NvmlUnavailable:
        grown = _growth(uuid, idle)
        if grown is None or grown <= reserved:
            return None
        return grown - reserved, "growth of the GPU's used memory (NVML) since before CUDA started, minus the reserve"
    return held - reserved, "NVML's figure of a process after all kernels ran, minus the allocator's reserve"


def _growth(uuid: str, idle: GpuState | None) -> int | None:
    try:
        now = gpu_state(uuid)
    except NvmlUnavailable:
        return None
    if idle is None or idle.free_bytes is None or now.free_bytes is None:
        return None
    return idle.free_bytes - now.free_bytes


def describe_cuda(device: str) -> dict[str, Any]:
    """What torch says about a CUDA device; starts the context.

    Raises:
        RuntimeError: the device has no room for a context.
    """
    import torch

    properties = torch.cuda.get_device_properties(device)
    torch.zeros(1, device=device)
    free, total = torch.cuda.mem_get_info(device)
    return {
        "name": properties.name,
        "capability": [properties.major, properties.minor],
        "total_bytes": total,
        "free_bytes": free,
        "uuid": str(getattr(properties, "uuid", "")),
        "multi_processors": properties.multi_processor_count,
        "cuda_version": torch.version.cuda,
    }
