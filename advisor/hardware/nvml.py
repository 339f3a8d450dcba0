"""NVML: imported inside functions, its failures mapped to typed errors; what it says about GPUs and processes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from advisor.core.errors import DeviceError

T = TypeVar("T")

SLOWDOWNS = {
    0x0004: "power cap",
    0x0008: "hardware slowdown",
    0x0010: "sync boost",
    0x0020: "software thermal slowdown",
    0x0040: "hardware thermal slowdown",
    0x0080: "power brake",
}
"""Bits of ``nvmlDeviceGetCurrentClocksEventReasons`` that mean that the GPU would like to run faster (nvml.h,
``nvmlClocksEventReason…``); idling (1) and clocks that somebody set (2, 0x100) are no slowdown."""


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
        handles = [handle_of(nvml, uuid)] if uuid else _all_handles(nvml)
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


def gpu_state(uuid: str, *, only: tuple[str, ...] | None = None) -> dict[str, Any]:
    """What NVML says about one GPU now, by name as in ``_questions``.

    What the driver refuses is ``None``, with the reason in ``refused``; memory is counted with what the driver keeps,
    and ``slowdowns`` says why clocks are held down (``"none"``: they are not).

    Args:
        uuid: With or without the ``GPU-`` prefix. Torch's order of devices may differ from NVML's.
        only: Ask for nothing else.

    Raises:
        NvmlUnavailable: NVML cannot be used, or knows no such GPU.
    """
    with nvml_library() as nvml:
        return _state(nvml, handle_of(nvml, uuid), uuid, only)


def all_gpu_states() -> dict[str, dict[str, Any]]:
    """The state of every GPU that NVML lists, by UUID without the ``GPU-`` prefix. Starts no CUDA.

    Raises:
        NvmlUnavailable: NVML cannot be used.
    """
    with nvml_library() as nvml:
        return {uuid: _state(nvml, handle, uuid) for uuid, handle in visible_gpus(nvml)}


def _state(nvml: Any, handle: Any, uuid: str, only: tuple[str, ...] | None = None) -> dict[str, Any]:
    state: dict[str, Any] = {"uuid": uuid}
    refused: dict[str, str] = {}
    for name, question in _questions(nvml, handle).items():
        if only is not None and name not in only:
            continue
        try:
            state[name] = question()
        except (nvml.NVMLError, AttributeError) as failure:  # an older binding lacks functions
            state[name], refused[name] = None, str(failure)
    return {**state, "refused": refused}


def _questions(nvml: Any, handle: Any) -> dict[str, Any]:
    """Each field's question, asked one by one, because a driver may refuse any of them."""
    return {
        "total_bytes": lambda: int(nvml.nvmlDeviceGetMemoryInfo(handle).total),
        "free_bytes": lambda: int(nvml.nvmlDeviceGetMemoryInfo(handle).free),
        "name": lambda: nvml.nvmlDeviceGetName(handle),
        "driver_version": lambda: nvml.nvmlSystemGetDriverVersion(),
        "sm_clock_hz": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM) * 1e6,
        "max_sm_clock_hz": lambda: nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM) * 1e6,
        "memory_clock_hz": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM) * 1e6,
        "max_memory_clock_hz": lambda: nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_MEM) * 1e6,
        "power_w": lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1e3,
        "power_limit_w": lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1e3,
        "temperature_c": lambda: float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
        "slowdowns": lambda: _slowdowns(nvml, handle),
        "mig": lambda: bool(nvml.nvmlDeviceGetMigMode(handle)[0]),
        "ecc": lambda: bool(nvml.nvmlDeviceGetEccMode(handle)[0]),
        "pcie": lambda: (
            f"{nvml.nvmlDeviceGetCurrPcieLinkGeneration(handle)} x{nvml.nvmlDeviceGetCurrPcieLinkWidth(handle)}"
        ),
        "max_pcie": lambda: (
            f"{nvml.nvmlDeviceGetMaxPcieLinkGeneration(handle)} x{nvml.nvmlDeviceGetMaxPcieLinkWidth(handle)}"
        ),
        "process_bytes": lambda: {
            process.pid: int(process.usedGpuMemory)
            for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle)
            if process.usedGpuMemory is not None
        },
    }


def _slowdowns(nvml: Any, handle: Any) -> str:
    try:
        bits = nvml.nvmlDeviceGetCurrentClocksEventReasons(handle)
    except (nvml.NVMLError, AttributeError):  # before driver 535 it has another name
        bits = nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
    return ", ".join(name for bit, name in SLOWDOWNS.items() if bits & bit) or "none"


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
        found = [nvml.nvmlDeviceGetCudaComputeCapability(handle) for handle in _all_handles(nvml)]
    if not found:
        raise NvmlUnavailable("NVML must show a GPU, but it lists none")
    major, minor = max(tuple(pair) for pair in found)
    return int(major), int(minor)


def driver_report() -> tuple[str, tuple[int, int] | None, list[dict[str, Any]]]:
    """What the driver says of itself and its GPUs. Starts no CUDA.

    Returns:
        Its version; the newest CUDA version whose programs it runs, ``None`` where it does not say; and of every GPU
        ``name``, ``total_bytes``, ``free_bytes`` and ``compute_capability``, each ``None`` where it is refused.

    Raises:
        NvmlUnavailable: NVML cannot be used.
    """

    def answer(question: Callable[[], T]) -> T | None:
        try:
            return question()
        except (nvml.NVMLError, AttributeError):  # an older binding lacks functions
            return None

    def described(handle: Any) -> dict[str, Any]:
        memory = answer(lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
        capability = answer(lambda: nvml.nvmlDeviceGetCudaComputeCapability(handle))
        return {
            "name": answer(lambda: str(nvml.nvmlDeviceGetName(handle))) or "a card without a name",
            "total_bytes": None if memory is None else int(memory.total),
            "free_bytes": None if memory is None else int(memory.free),
            "compute_capability": None if capability is None else (int(capability[0]), int(capability[1])),
        }

    with nvml_library() as nvml:
        number = answer(lambda: int(nvml.nvmlSystemGetCudaDriverVersion()))  # 12040 is CUDA 12.4
        toolkit = None if number is None else (number // 1000, number % 1000 // 10)
        version = answer(lambda: str(nvml.nvmlSystemGetDriverVersion())) or ""
        return version, toolkit, [described(handle) for _, handle in visible_gpus(nvml)]


def _all_handles(nvml: Any) -> list[Any]:
    return [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]


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
            uuid = nvml.nvmlDeviceGetUUID(handle).removeprefix("GPU-")
        except nvml.NVMLError:
            continue
        yield uuid, handle
