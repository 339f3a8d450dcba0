"""What NVML says about one GPU: capacity, clocks, power, modes, who else uses it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from advisor.hardware.nvml import handle_of, nvml_library, text_of, visible_gpus

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


@dataclass(frozen=True)
class GpuState:
    """What NVML says about one GPU; a field that the driver refuses is ``None``, with the reason in ``refused``.

    Attributes:
        uuid: Stable identity; torch's device order may differ from NVML's.
        name: Product name.
        total_bytes, free_bytes: As NVML counts, including what the driver keeps.
        driver_version: Of the kernel driver.
        sm_clock_hz, max_sm_clock_hz: Streaming multiprocessors, now and at most.
        memory_clock_hz, max_memory_clock_hz: Device memory, now and at most.
        power_w, power_limit_w: Drawn now, and the enforced limit.
        temperature_c: Of the chip, in degrees Celsius.
        slowdowns: Why clocks are held down now, comma-separated; ``"none"`` when they are not.
        mig, ecc: Whether the mode is on.
        pcie, max_pcie: Generation and width now and at most, for example ``"4 x16"``.
        process_bytes: Memory of every compute process by process id, as far as the driver tells.
        refused: Reason by field name.
    """

    uuid: str
    name: str | None = None
    total_bytes: int | None = None
    free_bytes: int | None = None
    driver_version: str | None = None
    sm_clock_hz: float | None = None
    max_sm_clock_hz: float | None = None
    memory_clock_hz: float | None = None
    max_memory_clock_hz: float | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    temperature_c: float | None = None
    slowdowns: str | None = None
    mig: bool | None = None
    ecc: bool | None = None
    pcie: str | None = None
    max_pcie: str | None = None
    process_bytes: dict[int, int] | None = None
    refused: dict[str, str] | None = None


def gpu_state(uuid: str) -> GpuState:
    """Ask NVML about the GPU with this UUID (with or without the ``GPU-`` prefix).

    Raises:
        NvmlUnavailable: NVML cannot be used, or knows no such GPU.
    """
    with nvml_library() as nvml:
        return _state(nvml, handle_of(nvml, uuid), uuid)


def all_gpu_states() -> dict[str, GpuState]:
    """Every GPU that NVML lists, by UUID without the ``GPU-`` prefix. Starts no CUDA.

    Raises:
        NvmlUnavailable: NVML cannot be used.
    """
    with nvml_library() as nvml:
        return {uuid: _state(nvml, handle, uuid) for uuid, handle in visible_gpus(nvml)}


def _state(nvml: Any, handle: Any, uuid: str) -> GpuState:
    answers: dict[str, Any] = {}
    refused: dict[str, str] = {}
    for name, question in _questions(nvml, handle).items():
        try:
            answers[name] = question()
        except (nvml.NVMLError, AttributeError) as failure:  # an older binding lacks functions
            refused[name] = str(failure)
    memory = answers.pop("memory", None)
    if memory is not None:
        answers.update(total_bytes=int(memory.total), free_bytes=int(memory.free))
    elif "memory" in refused:
        refused.update(total_bytes=refused["memory"], free_bytes=refused.pop("memory"))
    known = {field.name for field in fields(GpuState)}
    return GpuState(uuid=uuid, **{name: answers[name] for name in answers if name in known}, refused=refused or None)


def _questions(nvml: Any, handle: Any) -> dict[str, Any]:
    """Each field's question, asked one by one, because a driver may refuse any of them."""
    return {
        "memory": lambda: nvml.nvmlDeviceGetMemoryInfo(handle),
        "name": lambda: text_of(nvml.nvmlDeviceGetName(handle)),
        "driver_version": lambda: text_of(nvml.nvmlSystemGetDriverVersion()),
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
    # Renamed in driver 535; the old name is gone from some bindings and the new one from others.
    ask = getattr(nvml, "nvmlDeviceGetCurrentClocksEventReasons", None)
    try:
        bits = ask(handle) if ask is not None else nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
    except nvml.NVMLError:
        bits = nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
    return ", ".join(name for bit, name in SLOWDOWNS.items() if bits & bit) or "none"
