"""From recorded findings of a probing process to a profile: CPU, CUDA, noisy, interrupted."""

from __future__ import annotations

from typing import Any

import pytest

from advisor.core.errors import DeviceError
from advisor.hardware.host import Host
from advisor.hardware.probe_results import build_profile

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


def rate(
    key: str,
    work: float,
    median_s: float,
    spread: float = 0.01,
    *,
    table: str = "flops_per_s",
    point: str = "",
    lost: int = 0,
) -> dict[str, Any]:
    return {
        "kind": "rate",
        "table": table,
        "key": key,
        "point": point or f"{work:.0f}",
        "label": f"{work:g}",
        "work": work,
        "median_s": median_s,
        "spread": spread,
        "repeats": 7,
        "lost": lost,
    }


CPU = [
    {"kind": "device", "device": "cpu", "torch": "2.13.0"},
    {"kind": "context", "bytes": 500_000_000, "reason": "resident set after imports"},
    {"kind": "dtype", "name": "float32", "value": "yes", "reason": "tried"},
    {"kind": "dtype", "name": "float16", "value": "no", "reason": "tried: not implemented"},
    {"kind": "kernel", "name": "math", "value": "yes", "reason": "tried"},
    rate("float32", 2e9, 0.02),
    rate("float32", 2e9, 0.04),
    rate("float32", 2e9, 0.01),
    rate("memory", 1e8, 0.01, table="bytes_per_s"),
    rate("softmax", 1e5, 1e-6, table="bytes_per_s"),
    rate("softmax", 1e8, 2e-2, table="bytes_per_s"),
    rate("operator", 1.0, 4e-6, table="overhead_s"),
    rate("operator_autograd", 100.0, 1e-3, table="overhead_s"),
    {"kind": "threads", "value": 2, "reason": "measured: 1: 20 ms, 2: 11 ms"},
    {"kind": "fact", "name": "bitsandbytes", "value": "yes", "reason": "round trip"},
    {"kind": "done"},
]
CUDA = [
    {"kind": "device", "device": "cuda:0", "torch": "2.13.0+cu130"},
    {
        "kind": "card",
        "name": "NVIDIA H200",
        "capability": [9, 0],
        "total_bytes": 150_000_000_000,
        "free_bytes": 149_000_000_000,
        "uuid": "nobody-has-this",
        "multi_processors": 132,
        "cuda_version": "13.0",
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
    assert profile.flops_per_s["float32/2000000000"].value > 0, "each point is kept"
    assert profile.bytes_per_s["softmax"].value == pytest.approx(5e9), "the largest size, which streams from memory"
    assert profile.bytes_per_s["softmax/100000"].value == pytest.approx(1e11)
    assert profile.launch_s == profile.overhead_s["operator"].value == pytest.approx(4e-6)
    assert profile.overhead_s["operator_autograd"].value == pytest.approx(1e-5), "per operator"
    assert profile.num_threads == 2
    assert "11 ms" in profile.sources["num_threads"]
    assert "not implemented" in profile.facts["dtype float16"]
    assert not [warning for warning in profile.warnings if "unstable" in warning]


def state(**fields: Any) -> dict[str, Any]:
    return {"uuid": "x", "refused": None, **fields}


def test_a_cuda_profile_survives_without_nvml() -> None:
    missing = {"kind": "fact", "name": "nvml", "value": "no", "reason": "the driver is not loaded"}
    without_context = [finding for finding in CUDA if finding["kind"] != "context"]
    profile = build_profile([*without_context, missing], host=HOST)
    assert profile.id == "h200"
    assert profile.type == "cuda"
    assert profile.compute_capability == (9, 0)
    assert profile.workspace_bytes == 32 * 2**20
    assert profile.facts["nvml"] == "no (the driver is not loaded)"
    assert profile.context_bytes > 300 * 2**20, "the data sheet's stands in"
    assert "h200-sxm" in profile.sources["context_bytes"]
    assert profile.context_interval_bytes is not None
    assert profile.available_bytes == min(149_000_000_000 + profile.context_bytes, 150_000_000_000)


def test_an_unknown_card_without_nvml_gets_a_usual_context() -> None:
    card = {**CUDA[1], "name": "NVIDIA Example 9000"}
    profile = build_profile([CUDA[0], card], host=HOST)
    assert profile.id == "example-9000"
    assert profile.context_bytes == 500 * 2**20
    assert "usual" in profile.sources["context_bytes"]


def test_free_memory_is_that_from_before_our_own_context() -> None:
    idle = {"kind": "gpu", "moment": "idle", "state": state(free_bytes=100_000_000_000)}
    profile = build_profile([*CUDA, idle], host=HOST)
    assert profile.available_bytes == 100_000_000_000
    assert "before this process" in profile.sources["available_bytes"]


def test_facts_of_a_gpu_name_their_source_or_the_refusal() -> None:
    idle = state(
        driver_version="580.1", sm_clock_hz=345e6, max_sm_clock_hz=1980e6, power_limit_w=700.0, mig=False, ecc=True,
        process_bytes={71: 2**30, 72: 2**29}, pcie="1 x16", refused={"temperature_c": "Insufficient Permissions"},
    )  # fmt: skip
    loaded = state(sm_clock_hz=1755e6, power_w=640.0, slowdowns="power cap")
    findings = [{"kind": "gpu", "moment": "idle", "state": idle}, {"kind": "gpu", "moment": "loaded", "state": loaded}]
    profile = build_profile([*CUDA, *findings], host=HOST)
    facts = profile.facts
    assert facts["driver"].startswith("580.1 (NVML")
    assert facts["max_sm_clock_hz"].startswith("1.98e+09 (")
    assert facts["sm_clock_hz under load"].startswith("1.755e+09 (NVML, while multiplying")
    assert (facts["mig"].split()[0], facts["ecc"].split()[0]) == ("off", "on")
    assert facts["temperature_c"] == "unknown (Insufficient Permissions)"
    assert facts["memory_clock_hz"] == "unknown (NVML did not say)"
    assert facts["processes_bytes"].startswith(f"{2**30 + 2**29} (")
    assert "process 71: 1024 MiB" in facts["processes_bytes"]
    assert any("power cap" in warning for warning in profile.warnings)


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


def test_a_quiet_machine_gets_no_warning() -> None:
    looks = [
        {"kind": "reference", "moment": moment, "name": "float32 512", "rate": rate}
        for moment, rate in (("start", 1.0e11), ("end", 0.97e11))
    ]
    profile = build_profile([*CPU, *looks], host=HOST)
    assert profile.facts["drift"].startswith("-3.0%")
    assert not [warning for warning in profile.warnings if "busy" not in warning]


@pytest.mark.parametrize(("end", "words"), [(0.8e11, "-20.0%"), (1.3e11, "+30.0%")])
def test_a_drift_between_beginning_and_end_is_warned_about(end: float, words: str) -> None:
    looks = [
        {"kind": "reference", "moment": moment, "name": "float32 512", "rate": rate}
        for moment, rate in (("start", 1.0e11), ("end", end))
    ]
    warnings = build_profile([*CPU, *looks], host=HOST).warnings
    assert any(words in warning and "changed while" in warning for warning in warnings)


def test_a_machine_too_noisy_to_believe_says_so_and_names_the_worst() -> None:
    noisy = [rate("norm", 1e8, 0.01, spread=0.2 + 0.01 * n, table="bytes_per_s", point=str(n)) for n in range(20)]
    warnings = build_profile([*CPU, *noisy], host=HOST).warnings
    assert any("the machine is too noisy" in warning for warning in warnings)
    named = next(warning for warning in warnings if warning.startswith("unstable"))
    assert "norm/19 ±39%" in named
    assert "8 more" in named


def test_samples_that_the_clock_spoiled_are_reported() -> None:
    warnings = build_profile([*CPU, rate("float32", 1e9, 0.01, lost=3)], host=HOST).warnings
    assert any("3 samples" in warning for warning in warnings)


def test_a_figure_that_was_left_out_keeps_its_reason() -> None:
    left_out = {"kind": "left_out", "key": "float32", "name": "float32 8192", "reason": "OutOfMemoryError: 2 GiB"}
    late = {"kind": "left_out", "key": "norm", "name": "norm, 64 KiB", "reason": "no time was left"}
    profile = build_profile([*CPU, left_out, late], host=HOST)
    assert profile.facts["left out: float32 8192"] == "OutOfMemoryError: 2 GiB"
    assert any("float32 8192" in warning for warning in profile.warnings)
    assert not any("norm" in warning for warning in profile.warnings), "a deadline is no defect"


def test_what_a_full_card_could_not_show_is_missing_and_not_denied() -> None:
    full = {"kind": "dtype", "name": "bfloat16", "value": "unknown", "reason": "tried, but the device is too full"}
    profile = build_profile([*CUDA, full], host=HOST)
    assert profile.dtypes == ("float32",)
    assert "too full to try bfloat16" in profile.facts["partial"]
    assert any("bfloat16" in warning for warning in profile.warnings)


def test_without_the_rates_that_every_time_needs_a_profile_is_partial() -> None:
    late = {"kind": "left_out", "key": "float32", "name": "float32 512 x 512 x 512", "reason": "no time was left"}
    without = [finding for finding in CPU if finding.get("key") != "float32"]
    assert build_profile([*without, late], host=HOST).facts["partial"] == "no time was left for float32"
    assert "partial" not in build_profile([*CPU, late], host=HOST).facts, "there are other sizes"


def test_of_a_second_gpu_it_is_told_how_to_train_there() -> None:
    second = [{**CUDA[0], "device": "cuda:1"}, *CUDA[1:]]
    told = [warning for warning in build_profile(second, host=HOST).warnings if "CUDA_VISIBLE_DEVICES" in warning]
    assert len(told) == 1
    assert "to 1 for every command" in told[0]
    assert not any("CUDA_VISIBLE_DEVICES" in warning for warning in build_profile(CUDA, host=HOST).warnings)
