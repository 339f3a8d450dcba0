"""A hand-written stand-in for the NVML binding."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace


class FakeError(Exception):
    pass


def fake_library(
    *,
    init_fails: bool = False,
    clocks_fail: bool = False,
    processes: dict[int, int | None] | None = None,
    denied: tuple[str, ...] = (),
    uuids: tuple[str, ...] = ("GPU-0",),
    slow_bits: int = 0,
) -> ModuleType:
    library = ModuleType("pynvml")

    def init() -> None:
        if init_fails:
            raise FakeError("Driver Not Loaded")

    def clock(*_: object) -> int:
        if clocks_fail:
            raise FakeError("Not Supported")
        return 1410

    def by_uuid(uuid: str) -> str:
        if uuid.startswith("GPU-") and "mig" in uuid:
            raise FakeError("Not Found")
        return uuid

    def deny(*_: object) -> None:
        raise FakeError("Insufficient Permissions")

    listed = [SimpleNamespace(pid=pid, usedGpuMemory=size) for pid, size in (processes or {}).items()]
    members = {
        "NVMLError": FakeError,
        "NVML_CLOCK_SM": 1,
        "nvmlInit": init,
        "nvmlShutdown": lambda: None,
        "NVML_CLOCK_MEM": 2,
        "NVML_TEMPERATURE_GPU": 0,
        "nvmlDeviceGetCount": lambda: len(uuids),
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetHandleByUUID": by_uuid,
        "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(total=80 * 2**30, free=79 * 2**30, used=2**30),
        "nvmlDeviceGetUUID": lambda handle: uuids[handle],
        "nvmlDeviceGetCudaComputeCapability": lambda handle: [9, 0],
        "nvmlDeviceGetClockInfo": clock,
        "nvmlDeviceGetMaxClockInfo": clock,
        "nvmlDeviceGetEnforcedPowerLimit": lambda handle: 400_000,
        "nvmlDeviceGetMigMode": lambda handle: (0, 0),
        "nvmlDeviceGetEccMode": lambda handle: (1, 1),
        "nvmlDeviceGetCurrPcieLinkGeneration": lambda handle: 4,
        "nvmlDeviceGetCurrPcieLinkWidth": lambda handle: 16,
        "nvmlDeviceGetComputeRunningProcesses": lambda handle: listed,
        "nvmlSystemGetDriverVersion": lambda: "570.10",
        "nvmlDeviceGetName": lambda handle: "NVIDIA H200",
        "nvmlDeviceGetPowerUsage": lambda handle: 71_500,
        "nvmlDeviceGetTemperature": lambda handle, sensor: 41,
        "nvmlDeviceGetCurrentClocksEventReasons": lambda handle: slow_bits,
        "nvmlDeviceGetMaxPcieLinkGeneration": lambda handle: 5,
        "nvmlDeviceGetMaxPcieLinkWidth": lambda handle: 16,
    }
    for name, member in members.items():
        setattr(library, name, deny if name in denied else member)
    return library
