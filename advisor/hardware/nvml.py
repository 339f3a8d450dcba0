"""The door to NVML: imports it inside functions and maps its failures to typed errors."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from advisor.core.errors import DeviceError


class NvmlUnavailable(DeviceError):
    """There is no NVML here: no package, no driver, or no permission."""


def process_memory_bytes(pid: int | None = None, *, uuid: str | None = None) -> int:
    """Device memory of one process as NVML counts it: tensors, allocator reserve, context and kernels.

    Args:
        pid: Process id as the driver sees it; this process when ``None``. In a container with its own process namespace
            the driver may know the process under another id; then the only compute process is taken if there is exactly
            one.
        uuid: GPU to look at; all GPUs are summed when ``None``.

    Raises:
        NvmlUnavailable: NVML cannot be used, or does not show the process.
    """
    wanted = os.getpid() if pid is None else pid
    with nvml_library() as nvml:
        handles = (
            [handle_of(nvml, uuid)]
            if uuid
            else [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
        )
        found: dict[int, int] = {}
        for handle in handles:
            for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle):
                if process.usedGpuMemory is not None:
                    found[process.pid] = found.get(process.pid, 0) + process.usedGpuMemory
    if wanted in found:
        return found[wanted]
    if pid is None and len(found) == 1:
        return next(iter(found.values()))
    raise NvmlUnavailable(
        f"NVML must show process {wanted}, but it lists {sorted(found) or 'none with a memory figure'}",
        fix="run outside the container's process namespace, or rely on torch's figures plus the context size",
    )


def used_bytes_by_gpu() -> dict[str, int]:
    """Used memory of every GPU by UUID (without the ``GPU-`` prefix), as NVML counts it: all processes and the driver.

    Raises:
        NvmlUnavailable: NVML cannot be used.
    """
    with nvml_library() as nvml:
        return {uuid: int(nvml.nvmlDeviceGetMemoryInfo(handle).used) for uuid, handle in visible_gpus(nvml)}


def compute_capability() -> tuple[int, int]:
    """The highest compute capability of this machine's GPUs, without starting CUDA.

    Raises:
        NvmlUnavailable: NVML cannot be used, or there is no GPU.
    """
    with nvml_library() as nvml:
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        found = [nvml.nvmlDeviceGetCudaComputeCapability(handle) for handle in handles]
    if not found:
        raise NvmlUnavailable("NVML must show a GPU, but it lists none")
    major, minor = max(tuple(pair) for pair in found)
    return int(major), int(minor)


@contextlib.contextmanager
def nvml_library() -> Iterator[Any]:
    """The started library, stopped again after the block.

    Raises:
        NvmlUnavailable: no package, no driver, no permission; or a question in the block failed.
    """
    try:
        import pynvml
    except ImportError:
        raise NvmlUnavailable(
            "NVML needs the package nvidia-ml-py, but it is not installed", fix="pip install nvidia-ml-py"
        ) from None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as failure:
        raise NvmlUnavailable(
            f"NVML must start, but it said: {failure}", fix="check that the NVIDIA driver is loaded and readable"
        ) from None
    try:
        yield pynvml
    except pynvml.NVMLError as failure:
        raise NvmlUnavailable(f"NVML must answer, but it said: {failure}") from None
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def handle_of(nvml: Any, uuid: str) -> Any:
    """The GPU, or part of a GPU, with this UUID.

    torch drops the prefix that tells them apart, so that a bare UUID is looked for as both.
    """
    if uuid.startswith(("GPU-", "MIG-")):
        return nvml.nvmlDeviceGetHandleByUUID(uuid)
    try:
        return nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
    except nvml.NVMLError as failure:
        with contextlib.suppress(nvml.NVMLError):
            return nvml.nvmlDeviceGetHandleByUUID(f"MIG-{uuid}")
        raise failure from None


def visible_gpus(nvml: Any) -> Iterator[tuple[str, Any]]:
    """UUID (without the ``GPU-`` prefix) and handle of every GPU that this user may look at."""
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            uuid = (text_of(nvml.nvmlDeviceGetUUID(handle)) or "").removeprefix("GPU-")
        except nvml.NVMLError:
            continue
        yield uuid, handle


def text_of(value: Any) -> str | None:
    """Text, whether the binding gives bytes (older ones) or not."""
    return value.decode() if isinstance(value, bytes) else value
