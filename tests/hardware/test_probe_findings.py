"""From recorded findings of a probing process to a profile: CPU, CUDA, noisy, interrupted."""

from __future__ import annotations

from typing import Any

import pytest

from advisor.core.errors import DeviceError
from advisor.hardware.findings import build_profile
from advisor.hardware.host import Host

HOST = Host(
    2,
    None,
    2**34,
    2**33,
    "Intel(R) Xeon(R) Processor",
    ("avx2",),
    {
        "cores": "2 in the affinity mask; no cgroup quota",
        "memory_bytes": "physical memory",
        "vector_flags": "/proc/cpuinfo",
    },
)


def rate(key: str, work: float, median_s: float, spread: float = 0.01) -> dict[str, Any]:
    return {"kind": "rate", "key": key, "label": f"{work:g}", "work": work, "median_s": median_s, "spread": spread}


CPU = [
    {"kind": "device", "device": "cpu", "torch": "2.13.0", "threads": 2},
    {"kind": "context", "bytes": 500_000_000, "reason": "resident set after imports"},
    {"kind": "dtype", "name": "float32", "value": "yes", "reason": "tried"},
    {"kind": "dtype", "name": "float16", "value": "no", "reason": "tried: not implemented"},
    {"kind": "kernel", "name": "math", "value": "yes", "reason": "tried"},
    rate("float32", 2e9, 0.02),
    rate("float32", 2e9, 0.04),
    rate("float32", 2e9, 0.01),
    rate("memory", 1e8, 0.01),
    rate("launch", 1.0, 4e-6),
    {"kind": "fact", "name": "bitsandbytes", "value": "yes", "reason": "round trip"},
    {"kind": "done"},
]
CUDA = [
    {"kind": "device", "device": "cuda:0", "torch": "2.13.0+cu130", "threads": 16},
    {
        "kind": "cuda",
        "name": "NVIDIA H200",
        "capability": [9, 0],
        "total_bytes": 150_000_000_000,
        "free_bytes": 149_000_000_000,
        "uuid": "nobody-has-this",
        "multi_processors": 132,
        "cuda": "13.0",
    },
    *CPU[2:],
]


def test_a_cpu_profile() -> None:
    profile = build_profile(CPU, host=HOST)
    assert profile.id == "cpu-intel-xeon-2c"
    assert (profile.type, profile.basis) == ("cpu", "measured")
    assert (profile.memory_bytes, profile.available_bytes) == (2**34, 2**33)
    assert profile.dtypes == ("float32",)
    assert profile.context_bytes == 500_000_000
    assert profile.flops_per_s["float32"].value == pytest.approx(1e11), "the median over the shapes"
    assert profile.bytes_per_s["memory"].value == pytest.approx(1e10)
    assert profile.launch_s == 4e-6
    assert "not implemented" in profile.facts["dtype float16"]
    assert not [warning for warning in profile.warnings if "unstable" in warning]


def test_a_cuda_profile_survives_without_nvml() -> None:
    profile = build_profile(CUDA, host=HOST)
    assert profile.id == "h200"
    assert profile.type == "cuda"
    assert profile.compute_capability == (9, 0)
    assert profile.workspace_bytes == 32 * 2**20
    assert profile.facts["nvml"].startswith("no (")


def test_an_unstable_figure_is_named() -> None:
    profile = build_profile([*CPU, rate("bfloat16", 1e9, 0.01, spread=0.4)], host=HOST)
    assert any("bfloat16" in warning and "40%" in warning for warning in profile.warnings)


def test_less_than_a_core_is_warned_about() -> None:
    half = Host(1, 0.5, 2**34, 2**33, "x", (), {**HOST.reasons, "cores": "quota"})
    assert any("0.5 of a core" in warning for warning in build_profile(CPU, host=half).warnings)


def test_an_interrupted_probe_is_marked_partial() -> None:
    profile = build_profile(CPU[:3], partial="interrupted", host=HOST)
    assert profile.facts["partial"] == "interrupted"
    assert any("partial" in warning for warning in profile.warnings)
    assert profile.flops_per_s == {}


def test_a_probe_that_broke_is_marked_partial() -> None:
    profile = build_profile([*CPU[:6], {"kind": "broken", "reason": "probing ended early: signal SIGSEGV"}], host=HOST)
    assert "SIGSEGV" in profile.facts["partial"]


def test_findings_without_a_device_are_no_profile() -> None:
    with pytest.raises(DeviceError):
        build_profile([], host=HOST)
