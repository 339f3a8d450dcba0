"""NVML through a hand-written stand-in for the driver library: refusals become typed errors and findings."""

from __future__ import annotations

import os
import sys

import pytest

from advisor.core.errors import DeviceError
from advisor.hardware.nvml import (
    NvmlUnavailable,
    all_gpu_states,
    compute_capability,
    gpu_state,
    process_memory_bytes,
    used_bytes_by_gpu,
)
from tests.hardware.nvml_fake import FakeError, fake_library


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
    assert state["total_bytes"] == 80 * 2**30
    assert state["sm_clock_hz"] == 1410e6
    assert state["power_limit_w"] == 400.0
    assert (state["mig"], state["ecc"], state["pcie"]) == (False, True, "4 x16")
    assert state["driver_version"] == "570.10"
    assert (state["power_w"], state["temperature_c"], state["slowdowns"], state["max_pcie"]) == (
        71.5,
        41.0,
        "none",
        "5 x16",
    )
    assert state["process_bytes"] == {7: 2**30}
    assert state["refused"] == {}


def test_a_refused_question_leaves_the_others_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_library(clocks_fail=True))
    state = gpu_state("GPU-1")
    assert state["sm_clock_hz"] is None
    assert "Not Supported" in state["refused"]["sm_clock_hz"]
    assert state["power_limit_w"] == 400.0


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


QUESTIONS = [
    "nvmlDeviceGetMemoryInfo",
    "nvmlDeviceGetName",
    "nvmlSystemGetDriverVersion",
    "nvmlDeviceGetClockInfo",
    "nvmlDeviceGetMaxClockInfo",
    "nvmlDeviceGetPowerUsage",
    "nvmlDeviceGetEnforcedPowerLimit",
    "nvmlDeviceGetTemperature",
    "nvmlDeviceGetMigMode",
    "nvmlDeviceGetEccMode",
    "nvmlDeviceGetCurrPcieLinkGeneration",
    "nvmlDeviceGetMaxPcieLinkWidth",
    "nvmlDeviceGetComputeRunningProcesses",
]


@pytest.mark.parametrize("denied", [*((name,) for name in QUESTIONS), tuple(QUESTIONS)])
def test_every_question_may_be_denied(monkeypatch: pytest.MonkeyPatch, denied: tuple[str, ...]) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_library(denied=denied))
    state = gpu_state("GPU-1")
    assert state["refused"]
    assert all("Insufficient Permissions" in reason for reason in state["refused"].values())
    assert all(state[field] is None for field in state["refused"])


def test_an_older_binding_lacks_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    library = fake_library()
    del library.nvmlDeviceGetTemperature
    library.nvmlDeviceGetCurrentClocksThrottleReasons = lambda handle: 0x44
    del library.nvmlDeviceGetCurrentClocksEventReasons
    monkeypatch.setitem(sys.modules, "pynvml", library)
    state = gpu_state("GPU-1")
    assert state["temperature_c"] is None
    assert "nvmlDeviceGetTemperature" in state["refused"]["temperature_c"]
    assert state["slowdowns"] == "power cap, hardware thermal slowdown"


def test_idling_and_chosen_clocks_are_no_slowdown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_library(slow_bits=0x1 | 0x2 | 0x100))
    assert gpu_state("GPU-1")["slowdowns"] == "none"


def test_a_part_of_a_gpu_is_found_by_torchs_bare_uuid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_library())
    assert gpu_state("mig-1")["total_bytes"] == 80 * 2**30


def test_all_gpus_by_bare_uuid_and_without_those_that_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    library = fake_library(uuids=("GPU-a", "GPU-b"))
    monkeypatch.setitem(sys.modules, "pynvml", library)
    assert set(all_gpu_states()) == {"a", "b"}

    def hidden(index: int) -> int:
        if index == 0:
            raise FakeError("No Permission")
        return index

    library.nvmlDeviceGetHandleByIndex = hidden
    assert set(all_gpu_states()) == {"b"}
