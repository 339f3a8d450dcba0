"""From the findings of a probing process to a DeviceProfile."""

from __future__ import annotations

import statistics
from typing import Any, get_args

from advisor.core.device import LOAD_FACT, PARTIAL_FACT, DeviceProfile, Rate
from advisor.core.errors import DeviceError
from advisor.hardware.backends import get_backend
from advisor.hardware.benchmarks import Table
from advisor.hardware.host import Finding, Host, busy_load, inspect_host
from advisor.hardware.host_process import library_versions
from advisor.hardware.profiles import load_profile
from advisor.hardware.timing import NOISY_SPREAD

Findings = dict[str, list[dict[str, Any]]]

NO_TIME = "no time was left"
INDISPENSABLE = ("float32", "memory")
"""Without these rates nothing says how long a step takes."""
DRIFT = 0.10
"""A reference figure that has changed by more between beginning and end means that the machine has: repeats of one
product on an idle machine stay within 2-5 %."""
BELIEVABLE_SHARE = 0.25
"""With more unstable figures than this the machine as a whole is too noisy."""
NAMED = 12
"""Unstable figures named in a warning; each figure's own spread stands beside it in any case."""


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
    by_kind["rate"] = least_disturbed(by_kind.get("rate", []))
    rates = tables(by_kind["rate"])
    launch = rates["overhead_s"].get("operator", Rate(0.0, "not probed"))
    threads = by_kind.get("threads", [{"value": None, "reason": "not measured: only training on a CPU depends on it"}])
    return DeviceProfile(
        type=backend.name,
        **identity.fields,
        dtypes=_working(by_kind, "dtype") or ("float32",),
        attention_kernels=_working(by_kind, "kernel") or ("math",),
        flops_per_s=rates["flops_per_s"],
        bytes_per_s=rates["bytes_per_s"],
        overhead_s=rates["overhead_s"],
        launch_s=launch.value,
        num_threads=threads[-1]["value"],
        basis="measured",
        sources={
            **identity.sources,
            "dtypes": "tried: a product with its gradient, under autocast",
            "attention_kernels": "tried: each alone, forward and backward",
            **dict.fromkeys(rates, "probed: each rate names its shapes"),
            "launch_s": launch.source,
            "num_threads": threads[-1]["reason"],
        },
        facts={**host_facts(machine), **identity.facts, **_tried_facts(by_kind, broken)},
        warnings=tuple(_warnings(by_kind, machine, broken)),
    )


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
        **({LOAD_FACT: load} if (load := _disturbed(by_kind["rate"])) else {}),
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
    if load := _disturbed(by_kind["rate"]):
        warnings.append(f"{load}; probe again when it is quiet")
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


def least_disturbed(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The figures without those that were taken again in peace.

    Args:
        points: ``rate`` findings; ``load`` says what other programs did meanwhile.
    """

    def name(point: dict[str, Any]) -> tuple[str, str, str]:
        return point["table"], point["key"], point["point"]

    quiet = {name(point) for point in points if not point.get("load")}
    return [point for point in points if not point.get("load") or name(point) not in quiet]


def _disturbed(points: list[dict[str, Any]]) -> str:
    """How many figures other programs disturbed, in words; empty when there are few."""
    loads = [point["load"] for point in points if point.get("load")]
    if len(loads) <= BELIEVABLE_SHARE * len(points):
        return ""
    return f"{len(loads)} of {len(points)} figures were taken while {loads[-1]}"


def tables(points: list[dict[str, Any]]) -> dict[str, dict[str, Rate]]:
    """The tables of a profile.

    The key of each figure holds a summary (the median over products and attention lengths, the largest size of what
    moves bytes), with the largest spread of its points; ``"<key>/<point>"`` holds each point.

    Args:
        points: ``rate`` findings.
    """
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for point in points:
        groups.setdefault((point["table"], point["key"]), []).append(point)
    found: dict[str, dict[str, Rate]] = {table: {} for table in get_args(Table)}
    for (table, key), members in groups.items():
        members.sort(key=lambda member: float(member["work"]))
        rates = [_rate(member) for member in members]
        if len(members) == 1:
            found[table][key] = rates[0]
        elif table == "bytes_per_s":
            found[table][key] = rates[-1]
        else:
            median = statistics.median(rate.value for rate in rates)
            found[table][key] = Rate(
                median, f"probed: median over {len(rates)} shapes", max(rate.spread for rate in rates)
            )
        for member, rate in zip(members, rates, strict=True):
            if member["point"]:
                found[table][f"{key}/{member['point']}"] = rate
    return found


def _rate(point: dict[str, Any]) -> Rate:
    seconds = point["median_s"]
    value = seconds / point["work"] if point["table"] == "overhead_s" else point["work"] / seconds
    return Rate(value, f"probed: {point['label']}, median of {point['repeats']} repeats", point["spread"])


def noise_warnings(points: list[dict[str, Any]]) -> list[str]:
    """Names the figures whose repeats disagree, and says when the whole machine is too noisy.

    Args:
        points: ``rate`` findings.
    """
    unstable = sorted((point for point in points if point["spread"] > NOISY_SPREAD), key=lambda p: -p["spread"])
    warnings = []
    if len(unstable) > BELIEVABLE_SHARE * len(points):
        warnings.append(
            f"the machine is too noisy: {len(unstable)} of {len(points)} figures vary by more than "
            f"±{NOISY_SPREAD:.0%} between repeats; probe again when it is idle"
        )
    if unstable:
        names = [f"{_name(point)} ±{point['spread']:.0%}" for point in unstable[:NAMED]]
        more = f" and {len(unstable) - NAMED} more" if len(unstable) > NAMED else ""
        warnings.append(f"unstable, so times that depend on them are unreliable: {', '.join(names)}{more}")
    lost = sum(point.get("lost", 0) for point in points)
    if lost:
        warnings.append(f"the clock stood still or jumped in {lost} samples, which were dropped")
    return warnings


def drift(references: list[dict[str, Any]]) -> tuple[str, str]:
    """How much the reference figure changed while the probe ran, and a warning when that is much.

    Args:
        references: ``reference`` findings of the moments ``"start"`` and ``"end"``.

    Returns:
        The change in words (empty with fewer than two looks) and the warning (empty when it is small).
    """
    rates = {found["moment"]: found["rate"] for found in references}
    if not {"start", "end"} <= set(rates):
        return "", ""
    change = rates["end"] / rates["start"] - 1.0
    words = f"{change:+.1%} ({references[0]['name']} at the end against the beginning)"
    if abs(change) <= DRIFT:
        return words, ""
    cause = "other work or falling clocks" if change < 0 else "other work that ended or rising clocks"
    return words, f"the machine changed while it was probed: {words}, from {cause}; probe again"


def _name(point: dict[str, Any]) -> str:
    return f"{point['key']}/{point['point']}" if point["point"] else str(point["key"])


def slowdown_warnings(states: list[dict[str, Any]]) -> list[str]:
    """A GPU that could not run at the clocks it wanted to, under load."""
    warnings = []
    for found in states:
        reasons = found["state"].get("slowdowns")
        if found["moment"] == "loaded" and reasons not in (None, "none"):
            warnings.append(f"the GPU's clocks were held down under load: {reasons}")
    return warnings
