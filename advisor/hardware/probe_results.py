"""From the findings of a probing process to a DeviceProfile."""

from __future__ import annotations

from typing import Any

from advisor.core.device import PARTIAL_FACT, DeviceProfile
from advisor.core.errors import DeviceError
from advisor.hardware.backends import get_backend
from advisor.hardware.context import library_versions
from advisor.hardware.device_info import host_facts, slowdown_warnings
from advisor.hardware.host import Finding, Host, busy_load, inspect_host
from advisor.hardware.profiles import load_profile
from advisor.hardware.summary import drift, noise_warnings, tables

Findings = dict[str, list[dict[str, Any]]]


def build_profile(findings: list[dict[str, Any]], *, partial: str = "", host: Host | None = None) -> DeviceProfile:
    """Collect findings into a profile.

    Args:
        findings: What ``advisor.hardware.worker`` printed, in order.
        partial: Why findings are missing, when they are.
        host: The machine; inspected when ``None``.

    Raises:
        DeviceError: the findings do not say what the device is.
    """
    machine = host or inspect_host()
    by_kind: Findings = {}
    for finding in findings:
        by_kind.setdefault(finding["kind"], []).append(finding)
    if "device" not in by_kind:
        raise DeviceError("the probe must name its device, but it ended before that", fix="run `advisor probe` again")
    broken = partial or "; ".join(_broken(by_kind))
    backend = get_backend(by_kind["device"][0]["device"].partition(":")[0])
    identity = backend.probing.identity(by_kind, machine, load_profile)
    rates = tables(by_kind.get("rate", []))
    threads = by_kind.get("threads", [{"value": None, "reason": "not measured: only training on a CPU depends on it"}])
    return DeviceProfile(
        type=backend.name,
        **identity.fields,
        dtypes=_working(by_kind, "dtype") or ("float32",),
        attention_kernels=_working(by_kind, "kernel") or ("math",),
        flops_per_s=rates.flops_per_s,
        bytes_per_s=rates.bytes_per_s,
        overhead_s=rates.overhead_s,
        launch_s=rates.overhead_s["operator"].value if "operator" in rates.overhead_s else 0.0,
        num_threads=threads[-1]["value"],
        basis="measured",
        sources={
            **identity.sources,
            "dtypes": "tried: a product with its gradient, under autocast",
            "attention_kernels": "tried: each alone, forward and backward",
            **dict.fromkeys(("flops_per_s", "bytes_per_s", "overhead_s"), "probed: each rate names its shapes"),
            "launch_s": rates.overhead_s["operator"].source if "operator" in rates.overhead_s else "not probed",
            "num_threads": threads[-1]["reason"],
        },
        facts={**host_facts(machine), **identity.facts, **_tried_facts(by_kind, broken)},
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
    index = device.partition(":")[2]
    if index not in ("", "0"):
        warnings.append(
            f"this is {device}, but measuring and training take the first visible GPU: set CUDA_VISIBLE_DEVICES to "
            f"{index} for every command to use this one"
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
