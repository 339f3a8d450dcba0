"""From the findings of a probing process to a DeviceProfile."""

from __future__ import annotations

import os
import statistics
from typing import Any

from advisor.core.device import DeviceProfile, DeviceType, Rate
from advisor.core.errors import DeviceError
from advisor.hardware.host import Finding, Host, inspect_host
from advisor.hardware.nvml import GpuState, NvmlUnavailable, gpu_state
from advisor.hardware.profiles import slug
from advisor.hardware.timing import NOISY_SPREAD

WORKSPACE_BYTES, HOPPER_WORKSPACE_BYTES = int(8.125 * 2**20), 32 * 2**20
WORKSPACE_SOURCE = (
    "torch aten/src/ATen/cuda/CublasHandlePool.cpp: :4096:2:16:8 KiB = 8.125 MiB a handle, 32 "
    "MiB from compute capability 9.0 on"
)


def build_profile(findings: list[dict[str, Any]], *, partial: str = "", host: Host | None = None) -> DeviceProfile:
    """Collect findings into a profile.

    Args:
        findings: What ``advisor.hardware.worker`` printed, in order.
        partial: Why findings are missing, when they are.
        host: The machine; inspected when ``None``.

    Raises:
        DeviceError: the findings do not even name the device.
    """
    machine = host or inspect_host()
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for finding in findings:
        by_kind.setdefault(finding["kind"], []).append(finding)
    if "device" not in by_kind:
        raise DeviceError("the probe must name its device, but it ended before that", fix="run `advisor probe` again")
    broken = partial or "; ".join(finding["reason"] for finding in by_kind.get("broken", ()))
    started = by_kind["device"][0]
    cuda = by_kind["cuda"][0] if "cuda" in by_kind else None
    identity = _cuda_identity(cuda) if cuda else _cpu_identity(machine)
    context = by_kind.get("context", [{"bytes": 0, "reason": "unknown: not measured"}])[-1]
    flops, bandwidths, launch, rate_facts, warnings = _rates(by_kind.get("rate", []))
    facts = {
        **_host_facts(machine),
        **identity["facts"],
        "torch": str(Finding(started["torch"], f"{started['threads']} intra-op threads while probing")),
        **{f"dtype {f['name']}": str(Finding(f["value"], f["reason"])) for f in by_kind.get("dtype", ())},
        **{f"attention {f['name']}": str(Finding(f["value"], f["reason"])) for f in by_kind.get("kernel", ())},
        **{f["name"]: str(Finding(f["value"], f["reason"])) for f in by_kind.get("fact", ())},
        **rate_facts,
        **({"partial": broken} if broken else {}),
    }
    return DeviceProfile(
        **identity["fields"],
        dtypes=tuple(f["name"] for f in by_kind.get("dtype", ()) if f["value"] == "yes") or ("float32",),
        attention_kernels=tuple(f["name"] for f in by_kind.get("kernel", ()) if f["value"] == "yes") or ("math",),
        context_bytes=context["bytes"],
        flops_per_s=flops,
        bytes_per_s=bandwidths,
        launch_s=launch,
        basis="measured",
        sources={
            **identity["sources"],
            "context_bytes": context["reason"],
            "dtypes": "tried",
            "attention_kernels": "tried",
            "flops_per_s": "probed",
            "bytes_per_s": "probed",
            "launch_s": "probed",
        },
        facts=facts,
        warnings=tuple(warnings + _busy_warnings(machine) + ([f"partial profile: {broken}"] if broken else [])),
    )


def _cpu_identity(host: Host) -> dict[str, Any]:
    kind: DeviceType = "cpu"
    fields = {
        "id": f"cpu-{slug(host.model_name) or 'unknown'}-{host.cores}c",
        "name": f"{host.model_name}, {host.cores} core{'s' if host.cores > 1 else ''}",
        "type": kind,
        "memory_bytes": host.memory_bytes,
        "available_bytes": host.available_bytes,
        "workspace_bytes": 0,
    }
    sources = {"memory_bytes": host.reasons["memory_bytes"], "workspace_bytes": "no cuBLAS on CPU"}
    return {"fields": fields, "sources": sources, "facts": {}}


def _cuda_identity(found: dict[str, Any]) -> dict[str, Any]:
    capability = (int(found["capability"][0]), int(found["capability"][1]))
    kind: DeviceType = "cuda"
    fields = {
        "id": slug(found["name"]),
        "name": found["name"],
        "type": kind,
        "memory_bytes": found["total_bytes"],
        "available_bytes": found["free_bytes"],
        "compute_capability": capability,
        "workspace_bytes": HOPPER_WORKSPACE_BYTES if capability >= (9, 0) else WORKSPACE_BYTES,
    }
    facts = {
        "cuda": str(Finding(str(found["cuda"]), "the CUDA version torch was built with")),
        "multi_processors": str(Finding(str(found["multi_processors"]), "torch.cuda.get_device_properties")),
    }
    try:
        facts.update(_nvml_facts(gpu_state(found["uuid"])))
    except NvmlUnavailable as failure:
        facts["nvml"] = str(Finding("no", failure.message))
    sources = {
        "memory_bytes": "cudaMemGetInfo",
        "compute_capability": "torch.cuda.get_device_properties",
        "workspace_bytes": WORKSPACE_SOURCE,
    }
    return {"fields": fields, "sources": sources, "facts": facts}


def _nvml_facts(state: GpuState) -> dict[str, str]:
    others = {pid: size for pid, size in (state.process_bytes or {}).items() if pid != os.getpid()}
    values = {
        "driver": state.driver_version,
        "nvml_total_bytes": state.total_bytes,
        "sm_clock_hz": state.sm_clock_hz,
        "max_sm_clock_hz": state.max_sm_clock_hz,
        "power_limit_w": state.power_limit_w,
        "mig": state.mig,
        "ecc": state.ecc,
        "pcie": state.pcie,
        "processes_bytes": sum(others.values()),
    }
    refused = state.refused or {}
    return {
        name: str(Finding(str(value), "NVML"))
        if value is not None
        else str(Finding("unknown", refused.get(name, "NVML did not say")))
        for name, value in values.items()
    }


def _host_facts(host: Host) -> dict[str, str]:
    facts = {
        "cores": str(Finding(str(host.cores), host.reasons["cores"])),
        "vector_flags": str(Finding(" ".join(host.vector_flags) or "none", host.reasons["vector_flags"])),
        "host_memory_bytes": str(Finding(str(host.memory_bytes), host.reasons["memory_bytes"])),
    }
    if host.core_quota is not None:
        facts["core_quota"] = str(Finding(f"{host.core_quota:g}", host.reasons["cores"]))
    return facts


def _rates(points: list[dict[str, Any]]) -> tuple[dict[str, Rate], dict[str, Rate], float, dict[str, str], list[str]]:
    """Group the grid by key; a key's rate is the median over its shapes, its spread the largest of its points'."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for point in points:
        groups.setdefault(point["key"], []).append(point)
    flops: dict[str, Rate] = {}
    bandwidths: dict[str, Rate] = {}
    facts: dict[str, str] = {}
    warnings: list[str] = []
    launch_s = 0.0
    for key, members in groups.items():
        spread = max(point["spread"] for point in members)
        rate = Rate(statistics.median(point["work"] / point["median_s"] for point in members), "probed", spread)
        if key == "launch":
            launch_s = members[0]["median_s"]
        elif key in ("memory", "cache", "host_to_device", "storage"):
            bandwidths[key] = rate
        else:
            flops[key] = rate
        for point in members:
            facts[f"rate {key}, {point['label']}"] = (
                f"{point['work'] / point['median_s']:.4g} per second (median, half spread {point['spread']:.1%})"
            )
        if spread > NOISY_SPREAD:
            warnings.append(
                f"unstable: {key} varies by ±{spread:.0%} between repeats; times that rest on it may not be believed"
            )
    return flops, bandwidths, launch_s, facts, warnings


def _busy_warnings(host: Host) -> list[str]:
    warnings = []
    if host.core_quota is not None and host.core_quota < 1:
        warnings.append(f"the container grants only {host.core_quota:g} of a core: times will be long and uneven")
    try:
        load = os.getloadavg()[0]
    except OSError:
        return warnings
    if load > host.cores + 1:
        warnings.append(f"the machine is busy: load {load:.1f} on {host.cores} cores; probe again when it is idle")
    return warnings
