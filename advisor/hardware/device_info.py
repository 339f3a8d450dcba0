"""Facts of a machine in words, each with its source or with the reason why it is unknown."""

from __future__ import annotations

import re
from typing import Any

from advisor.hardware.host import Finding, Host

GPU_FACTS = {
    "driver": "driver_version",
    "sm_clock_hz": "sm_clock_hz",
    "max_sm_clock_hz": "max_sm_clock_hz",
    "memory_clock_hz": "memory_clock_hz",
    "max_memory_clock_hz": "max_memory_clock_hz",
    "power_w": "power_w",
    "power_limit_w": "power_limit_w",
    "temperature_c": "temperature_c",
    "slowdowns": "slowdowns",
    "mig": "mig",
    "ecc": "ecc",
    "pcie": "pcie",
    "max_pcie": "max_pcie",
    "nvml_total_bytes": "total_bytes",
    "nvml_free_bytes": "free_bytes",
}
"""Facts of a profile and the fields of a GPU's state that they come from."""
LOADED_FACTS = ("sm_clock_hz", "memory_clock_hz", "power_w", "temperature_c", "slowdowns", "pcie")
"""What a GPU's work changes."""


def slug(text: str) -> str:
    """A product name as a profile id: lower case, words joined by hyphens.

    Vendor words and trade marks are dropped, so that ``"NVIDIA A100-SXM4-80GB"`` becomes ``"a100-sxm4-80gb"``.
    """
    words = re.split(r"[^a-z0-9]+", re.sub(r"\((r|tm|c)\)|®|™", " ", text.lower()))
    return "-".join(
        word
        for word in words
        if word and word not in ("nvidia", "geforce", "tesla", "corporation", "cpu", "processor", "at")
    )


def host_facts(host: Host) -> dict[str, str]:
    """Cores, clocks, instruction sets and memory of the CPU side."""
    reasons = host.reasons
    facts = {
        "cpu": str(Finding(host.model_name, "/proc/cpuinfo or the platform's name")),
        "cores": str(Finding(str(host.cores), reasons["cores"])),
    }
    if host.physical_cores is not None:
        facts["physical_cores"] = str(Finding(str(host.physical_cores), reasons.get("physical_cores", "given")))
    facts["core_quota"] = str(
        Finding("none" if host.core_quota is None else f"{host.core_quota:g}", reasons["cores"].split("; ")[-1])
    )
    for name, value in (("cpu_clock_hz", host.clock_hz), ("max_cpu_clock_hz", host.max_clock_hz)):
        reason = reasons.get(name.replace("cpu_", ""), "not asked")
        facts[name] = str(Finding("unknown" if value is None else f"{value:.4g}", reason))
    facts["vector_flags"] = str(Finding(" ".join(host.vector_flags) or "none", reasons["vector_flags"]))
    facts["host_memory_bytes"] = str(Finding(str(host.memory_bytes), reasons["memory_bytes"]))
    return facts


def gpu_facts(states: list[dict[str, Any]]) -> dict[str, str]:
    """What NVML said before the probe and under load.

    Args:
        states: ``gpu`` findings, the idle (or first) one before the loaded one.
    """
    facts: dict[str, str] = {}
    for found in states:
        state, moment = found["state"], found["moment"]
        loaded = moment == "loaded"
        refused = state.get("refused") or {}
        for name, field in GPU_FACTS.items():
            if loaded and name not in LOADED_FACTS:
                continue
            key = f"{name} under load" if loaded else name
            facts[key] = str(_finding(state.get(field), refused.get(field), f"NVML, {_MOMENTS[moment]}"))
        if not loaded:
            facts["processes_bytes"] = str(_others(state, refused))
    return facts


_MOMENTS = {
    "idle": "before CUDA was started",
    "started": "after CUDA was started",
    "loaded": "while multiplying matrices",
}


def _finding(value: Any, refused: str | None, source: str) -> Finding:
    if value is None:
        return Finding("unknown", refused or "NVML did not say")
    text = f"{value:.4g}" if isinstance(value, float) else {True: "on", False: "off"}.get(value, str(value))
    return Finding(text, source)


def _others(state: dict[str, Any], refused: dict[str, str]) -> Finding:
    """Memory of other processes: NVML was asked before this one had any."""
    processes = state.get("process_bytes")
    if processes is None:
        return Finding("unknown", refused.get("process_bytes", "NVML did not say"))
    listed = "; ".join(f"process {pid}: {size / 2**20:.0f} MiB" for pid, size in processes.items())
    return Finding(str(sum(processes.values())), f"NVML; {listed or 'no other process holds memory'}")


def slowdown_warnings(states: list[dict[str, Any]]) -> list[str]:
    """A GPU that could not run at the clocks it wanted to, under load."""
    warnings = []
    for found in states:
        reasons = found["state"].get("slowdowns")
        if found["moment"] == "loaded" and reasons not in (None, "none"):
            warnings.append(f"the GPU's clocks were held down under load: {reasons}")
    return warnings
