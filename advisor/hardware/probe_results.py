"""From the findings of a probing process to a DeviceProfile."""

from __future__ import annotations

from typing import Any

from advisor.core.device import PARTIAL_FACT, DeviceProfile, DeviceType
from advisor.core.errors import DeviceError
from advisor.core.units import counted
from advisor.hardware.context import library_versions
from advisor.hardware.device_info import gpu_facts, host_facts, slowdown_warnings
from advisor.hardware.host import Finding, Host, busy_load, inspect_host
from advisor.hardware.profiles import load_profile, slug
from advisor.hardware.summary import drift, noise_warnings, tables

WORKSPACE_BYTES, HOPPER_WORKSPACE_BYTES = int(8.125 * 2**20), 32 * 2**20
WORKSPACE_SOURCE = (
    "torch aten/src/ATen/cuda/CublasHandlePool.cpp: :4096:2:16:8 KiB = 8.125 MiB a handle, 32 "
    "MiB from compute capability 9.0 on"
)
USUAL_CONTEXT_BYTES = 500 * 2**20
"""Of a card that no profile describes: process memory beyond the reserve in public out-of-memory messages lies between
300 and 750 MiB."""

Findings = dict[str, list[dict[str, Any]]]


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
    by_kind: Findings = {}
    for finding in findings:
        by_kind.setdefault(finding["kind"], []).append(finding)
    if "device" not in by_kind:
        raise DeviceError("the probe must name its device, but it ended before that", fix="run `advisor probe` again")
    broken = partial or "; ".join(_broken(by_kind))
    identity = _cuda_identity(by_kind) if "cuda" in by_kind else _cpu_identity(machine, by_kind)
    rates = tables(by_kind.get("rate", []))
    threads = by_kind.get("threads", [{"value": None, "reason": "not measured: only training on a CPU depends on it"}])
    return DeviceProfile(
        **identity["fields"],
        dtypes=_working(by_kind, "dtype") or ("float32",),
        attention_kernels=_working(by_kind, "kernel") or ("math",),
        flops_per_s=rates.flops_per_s,
        bytes_per_s=rates.bytes_per_s,
        overhead_s=rates.overhead_s,
        launch_s=rates.overhead_s["operator"].value if "operator" in rates.overhead_s else 0.0,
        num_threads=threads[-1]["value"],
        basis="measured",
        sources={
            **identity["sources"],
            "dtypes": "tried: a product with its gradient, under autocast",
            "attention_kernels": "tried: each alone, forward and backward",
            **dict.fromkeys(("flops_per_s", "bytes_per_s", "overhead_s"), "probed: each rate names its shapes"),
            "launch_s": rates.overhead_s["operator"].source if "operator" in rates.overhead_s else "not probed",
            "num_threads": threads[-1]["reason"],
        },
        facts={**host_facts(machine), **identity["facts"], **_tried_facts(by_kind, broken)},
        warnings=tuple(_warnings(by_kind, machine, broken)),
    )


NO_TIME = "no time was left"
INDISPENSABLE = ("float32", "memory")
"""Without these rates nothing says how long a step takes."""


def _broken(by_kind: Findings) -> list[str]:
    """Why the profile is not complete."""
    reasons = [found["reason"] for found in by_kind.get("broken", ())]
    untold = [f["name"] for kind in ("dtype", "kernel") for f in by_kind.get(kind, ()) if f["value"] == "unknown"]
    if untold:
        reasons.append(f"the device was too full to try {', '.join(untold)}")
    timed = {found["key"] for found in by_kind.get("rate", ())}
    late = {found["key"] for found in by_kind.get("left_out", ()) if found["reason"] == NO_TIME}
    missing = [key for key in INDISPENSABLE if key in late - timed]
    return [*reasons, *([f"{NO_TIME} for {', '.join(missing)}"] if missing else [])]


def cpu_id(host: Host) -> str:
    """The profile id of a host."""
    return f"cpu-{slug(host.model_name) or 'unknown'}-{host.cores}c"


def _cpu_identity(host: Host, by_kind: Findings) -> dict[str, Any]:
    kind: DeviceType = "cpu"
    context = by_kind.get("context", [{"bytes": 0, "reason": "unknown: not measured"}])[-1]
    fields = {
        "id": cpu_id(host),
        "name": f"{host.model_name}, {counted(host.cores, 'core')}",
        "type": kind,
        "memory_bytes": host.memory_bytes,
        "available_bytes": host.available_bytes,
        "workspace_bytes": 0,
        "context_bytes": context["bytes"],
    }
    sources = {
        "memory_bytes": host.reasons["memory_bytes"],
        "available_bytes": "free or reclaimable within that",
        "workspace_bytes": "no cuBLAS on CPU",
        "context_bytes": context["reason"],
    }
    return {"fields": fields, "sources": sources, "facts": {}}


def _cuda_identity(by_kind: Findings) -> dict[str, Any]:
    found, states = by_kind["cuda"][0], by_kind.get("gpu", [])
    capability = (int(found["capability"][0]), int(found["capability"][1]))
    context = by_kind.get("context") or [_usual_context(found["name"])]
    available, available_source = _available(found, states, context[-1]["bytes"])
    kind: DeviceType = "cuda"
    fields = {
        "id": slug(found["name"]),
        "name": found["name"],
        "type": kind,
        "memory_bytes": found["total_bytes"],
        "available_bytes": available,
        "compute_capability": capability,
        "workspace_bytes": HOPPER_WORKSPACE_BYTES if capability >= (9, 0) else WORKSPACE_BYTES,
        "context_bytes": context[-1]["bytes"],
        "context_interval_bytes": context[-1].get("interval"),
    }
    facts = {
        "cuda": str(Finding(str(found["cuda"]), "the CUDA version torch was built with")),
        "multi_processors": str(Finding(str(found["multi_processors"]), "torch.cuda.get_device_properties")),
        **gpu_facts(states),
    }
    sources = {
        "memory_bytes": "cudaMemGetInfo",
        "available_bytes": available_source,
        "compute_capability": "torch.cuda.get_device_properties",
        "workspace_bytes": WORKSPACE_SOURCE,
        "context_bytes": context[-1]["reason"],
    }
    return {"fields": fields, "sources": sources, "facts": facts}


def _available(found: dict[str, Any], states: list[dict[str, Any]], context_bytes: int) -> tuple[int, str]:
    """What a new process can have, its own context included: free bytes from before this one made a context."""
    for state in states:
        free = state["state"].get("free_bytes")
        if state["moment"] == "idle" and free is not None:
            return min(free, found["total_bytes"]), "NVML, before this process had a context"
    free = min(found["free_bytes"] + context_bytes, found["total_bytes"])
    return free, "cudaMemGetInfo after this process made its context, plus that context"


def _usual_context(name: str) -> dict[str, Any]:
    """The context of a card that its driver does not show: its data sheet's, else a usual one."""
    try:
        known = load_profile(name)
    except DeviceError:
        reason = f"unknown: the driver shows no process memory; {USUAL_CONTEXT_BYTES >> 20} MiB are usual"
        return {"bytes": USUAL_CONTEXT_BYTES, "reason": reason}
    reason = f"the driver shows no process memory; from the profile {known.id}: {known.sources['context_bytes']}"
    return {"bytes": known.context_bytes, "reason": reason, "interval": known.context_interval_bytes}


def _working(by_kind: Findings, kind: str) -> tuple[str, ...]:
    return tuple(found["name"] for found in by_kind.get(kind, ()) if found["value"] == "yes")


def _tried_facts(by_kind: Findings, broken: str) -> dict[str, str]:
    """What was tried, what was left out, and with which libraries."""
    threads = by_kind.get("threads")
    while_probing = f"{threads[-1]['value']} intra-op threads while probing" if threads else "while probing"
    facts = {
        "torch": str(Finding(by_kind["device"][0]["torch"], while_probing)),
        "libraries": str(Finding(library_versions(), "installed")),
        **{f"dtype {f['name']}": str(Finding(f["value"], f["reason"])) for f in by_kind.get("dtype", ())},
        **{f"attention {f['name']}": str(Finding(f["value"], f["reason"])) for f in by_kind.get("kernel", ())},
        **{f["name"]: str(Finding(f["value"], f["reason"])) for f in by_kind.get("fact", ())},
    }
    change, _ = drift(by_kind.get("reference", []))
    if change:
        facts["drift"] = change
    for found in by_kind.get("left_out", ()):
        facts[f"left out: {found['name']}"] = found["reason"]
    return {**facts, **({PARTIAL_FACT: broken} if broken else {})}


def _warnings(by_kind: Findings, host: Host, broken: str) -> list[str]:
    _, changed = drift(by_kind.get("reference", []))
    warnings = [*noise_warnings(by_kind.get("rate", [])), *([changed] if changed else [])]
    warnings += slowdown_warnings(by_kind.get("gpu", []))
    warnings += _busy_warnings(host)
    device = by_kind["device"][0]["device"]
    if device not in ("cpu", "cuda:0"):
        warnings.append(
            f"this is {device}, but measuring and training take the first visible GPU: set CUDA_VISIBLE_DEVICES to "
            f"{device.removeprefix('cuda:')} for every command to use this one"
        )
    left_out = [found for found in by_kind.get("left_out", ()) if found["reason"] != NO_TIME]
    if left_out:
        reasons = [f"{found['name']} ({found['reason']})" for found in left_out]
        warnings.append(f"not measured: {'; '.join(reasons)}")
    return warnings + ([f"partial profile: {broken}"] if broken else [])


def _busy_warnings(host: Host) -> list[str]:
    warnings = []
    if host.throttled:
        share = "of a core" if (host.core_quota or 0) < 1 else "cores"
        warnings.append(f"the container grants only {host.core_quota:g} {share}: times will be long and uneven")
    load = busy_load()
    if load:
        warnings.append(f"the machine is busy: {load}; probe again when it is idle")
    return warnings
