"""NVML through a hand-written stand-in for the driver library: refusals become typed errors and findings."""

from __future__ import annotations

import os
import sys
from types import ModuleType, SimpleNamespace

import pytest

from advisor.core.errors import DeviceError
from advisor.hardware.nvml import (
    NvmlUnavailable,
    compute_capability,
    gpu_state,
    process_memory_bytes,
    used_bytes_by_gpu,
)


class FakeError(Exception):
    pass


def fake_library(
    *, init_fails: bool = False, clocks_fail: bool = False, processes: dict[int, int | None] | None = None
) -> ModuleType:
    library = ModuleType("pynvml")

    def init() -> None:
        if init_fails:
            raise FakeError("Driver Not Loaded")

    def clock(*_: object) -> int:
        if clocks_fail:
            raise FakeError("Not Supported")
        return 1410

    listed = [SimpleNamespace(pid=pid, usedGpuMemory=size) for pid, size in (processes or {}).items()]
    members = {
        "NVMLError": FakeError,
        "NVML_CLOCK_SM": 1,
        "nvmlInit": init,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: 1,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetHandleByUUID": lambda uuid: uuid,
        "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(total=80 * 2**30, free=79 * 2**30, used=2**30),
        "nvmlDeviceGetUUID": lambda handle: f"GPU-{handle}",
        "nvmlDeviceGetCudaComputeCapability": lambda handle: [9, 0],
        "nvmlDeviceGetClockInfo": clock,
        "nvmlDeviceGetMaxClockInfo": clock,
        "nvmlDeviceGetEnforcedPowerLimit": lambda handle: 400_000,
        "nvmlDeviceGetMigMode": lambda handle: (0, 0),
        "nvmlDeviceGetEccMode": lambda handle: (1, 1),
        "nvmlDeviceGetCurrPcieLinkGeneration": lambda handle: 4,
        "nvmlDeviceGetCurrPcieLinkWidth": lambda handle: 16,
        "nvmlDeviceGetComputeRunningProcesses": lambda handle: listed,
        "nvmlSystemGetDriverVersion": lambda: b"570.10",
    }
    for name, member in members.items():
        setattr(library, name, member)
    return library


def test_no_driver_is_a_typed_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_library(init_fails=True))
    with pytest.raises(NvmlUnavailable, match="Driver Not Loaded") as failure:
        gpu_state("GPU-1")
    assert isinstance(failure.value, DeviceError)


def test_no_package_is_a_typed_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(NvmlUnavailable, match="nvidia-ml-py"):
        process_memory_bytes()


def test_state_in_base_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_library(processes={7: 2**30}))
    state = gpu_state("1234")
    assert state.total_bytes == 80 * 2**30
    assert state.sm_clock_hz == 1410e6
    assert state.power_limit_w == 400.0
    assert (state.mig, state.ecc, state.pcie) == (False, True, "4 x16")
    assert state.driver_version == "570.10"
    assert state.process_bytes == {7: 2**30}
    assert state.refused is None


def test_a_refused_question_leaves_the_others_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_library(clocks_fail=True))
    state = gpu_state("GPU-1")
    assert state.sm_clock_hz is None
    assert state.refused is not None
    assert "Not Supported" in state.refused["sm_clock_hz"]
    assert state.power_limit_w == 400.0


def test_memory_of_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_library(processes={7: 5, os.getpid(): 11}))
    assert process_memory_bytes() == 11
    assert process_memory_bytes(7) == 5
    with pytest.raises(NvmlUnavailable, match="process 8"):
        process_memory_bytes(8)


def test_in_a_container_the_only_process_is_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_library(processes={123456: 17}))
    assert process_memory_bytes() == 17


def test_a_driver_without_figures_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_library(processes={os.getpid(): None}))
    with pytest.raises(NvmlUnavailable):
        process_memory_bytes()


def test_used_memory_and_capability_need_no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_library())
    assert used_bytes_by_gpu() == {"0": 2**30}
    assert compute_capability() == (9, 0)
    monkeypatch.setitem(sys.modules, "pynvml", fake_library(init_fails=True))
    for question in (used_bytes_by_gpu, compute_capability):
        with pytest.raises(NvmlUnavailable):
            question()
