"""The only module that talks to NVML. Imports it inside functions and maps its failures to typed errors."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from advisor.core.errors import DeviceError


class NvmlUnavailable(DeviceError):
    """There is no NVML here: no package, no driver, or no permission."""


@dataclass(frozen=True)
class GpuState:
    """What NVML says about one GPU; a field that the driver refuses is ``None``, with the reason in ``refused``.

    Attributes:
        uuid: Stable identity; torch's device order may differ from NVML's.
        total_bytes, free_bytes: As NVML counts, including what the driver keeps.
        driver_version: Of the kernel driver.
        sm_clock_hz, max_sm_clock_hz: Streaming multiprocessors, now and at most.
        power_limit_w: Enforced limit.
        mig, ecc: Whether the mode is on.
        pcie: Generation and width now, for example ``"4 x16"``.
        process_bytes: Memory of every compute process by process id, as far as the driver tells.
        refused: Reason by field name.
    """

    uuid: str
    total_bytes: int | None = None
    free_bytes: int | None = None
    driver_version: str | None = None
    sm_clock_hz: float | None = None
    max_sm_clock_hz: float | None = None
    power_limit_w: float | None = None
    mig: bool | None = None
    ecc: bool | None = None
    pcie: str | None = None
    process_bytes: dict[int, int] | None = None
    refused: dict[str, str] | None = None


def gpu_state(uuid: str) -> GpuState:
    """Ask NVML about the GPU with this UUID (with or without the ``GPU-`` prefix).

    Raises:
        NvmlUnavailable: NVML cannot be used, or knows no such GPU.
    """
    with _library() as nvml:
        handle = _handle(nvml, uuid)
        refused: dict[str, str] = {}

        def ask(name: str, question: Any) -> Any:
            try:
                return question()
            except nvml.NVMLError as failure:
                refused[name] = str(failure)
                return None

        memory = ask("memory", lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
        clock = ask("sm_clock_hz", lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM))
        top_clock = ask("max_sm_clock_hz", lambda: nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM))
        power = ask("power_limit_w", lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle))
        mig = ask("mig", lambda: nvml.nvmlDeviceGetMigMode(handle)[0])
        ecc = ask("ecc", lambda: nvml.nvmlDeviceGetEccMode(handle)[0])
        generation = ask("pcie", lambda: nvml.nvmlDeviceGetCurrPcieLinkGeneration(handle))
        width = ask("pcie", lambda: nvml.nvmlDeviceGetCurrPcieLinkWidth(handle))
        processes = ask("process_bytes", lambda: nvml.nvmlDeviceGetComputeRunningProcesses(handle))
        driver = ask("driver_version", nvml.nvmlSystemGetDriverVersion)
    return GpuState(
        uuid=uuid,
        total_bytes=memory.total if memory else None,
        free_bytes=memory.free if memory else None,
        driver_version=_text(driver),
        sm_clock_hz=clock * 1e6 if clock is not None else None,
        max_sm_clock_hz=top_clock * 1e6 if top_clock is not None else None,
        power_limit_w=power / 1e3 if power is not None else None,
        mig=bool(mig) if mig is not None else None,
        ecc=bool(ecc) if ecc is not None else None,
        pcie=f"{generation} x{width}" if generation is not None and width is not None else None,
        process_bytes=None
        if processes is None
        else {p.pid: p.usedGpuMemory for p in processes if p.usedGpuMemory is not None},
        refused=refused or None,
    )


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
    with _library() as nvml:
        handles = (
            [_handle(nvml, uuid)]
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
    used: dict[str, int] = {}
    with _library() as nvml:
        for index in range(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            uuid = _text(nvml.nvmlDeviceGetUUID(handle)) or ""
            used[uuid.removeprefix("GPU-")] = int(nvml.nvmlDeviceGetMemoryInfo(handle).used)
    return used


def compute_capability() -> tuple[int, int]:
    """The highest compute capability of this machine's GPUs, without starting CUDA.

    Raises:
        NvmlUnavailable: NVML cannot be used, or there is no GPU.
    """
    with _library() as nvml:
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        found = [nvml.nvmlDeviceGetCudaComputeCapability(handle) for handle in handles]
    if not found:
        raise NvmlUnavailable("NVML must show a GPU, but it lists none")
    major, minor = max(tuple(pair) for pair in found)
    return int(major), int(minor)


@contextlib.contextmanager
def _library() -> Iterator[Any]:
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


def _handle(nvml: Any, uuid: str) -> Any:
    return nvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}")


def _text(value: Any) -> str | None:
    return value.decode() if isinstance(value, bytes) else value
