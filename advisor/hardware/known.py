"""What an earlier probe of this machine has found out that only other library versions could change."""

from __future__ import annotations

from typing import Any

from advisor.core.errors import DeviceError
from advisor.hardware.backends import HOST
from advisor.hardware.backends.cpu import cpu_id
from advisor.hardware.context import library_versions
from advisor.hardware.host import inspect_host
from advisor.hardware.profiles import load_profile
from advisor.hardware.threads import COMPARED

KNOWN = "; known from an earlier probe with the same libraries"


def known_findings(device: str, *, quick: bool) -> list[dict[str, Any]]:
    """Findings that spare a quick probe of a CPU the imports of the training libraries and of bitsandbytes (5 to 10 s).

    The thread count that was chosen by comparing stays, too: a few quick rounds in a slow moment of a shared machine
    would overturn it, and with it every calibration.

    Args:
        device: As the user named it.
        quick: A full probe finds everything out anew.

    Returns:
        ``context``, ``threads`` and ``fact`` findings; nothing when there is no such probe.
    """
    if not quick or device not in ("", HOST):
        return []
    try:
        profile = load_profile(cpu_id(inspect_host()))
    except DeviceError:
        return []
    same = profile.facts.get("libraries", "").startswith(f"{library_versions()} (")
    facts = {name: fact for name, fact in profile.facts.items() if name.startswith("bitsandbytes")}
    if not same or not facts or not profile.context_bytes or profile.basis != "measured":
        return []
    reason = profile.sources.get("context_bytes", "").removesuffix(KNOWN)
    findings = [{"kind": "context", "bytes": profile.context_bytes, "reason": reason + KNOWN}]
    chosen = profile.sources.get("num_threads", "").removesuffix(KNOWN)
    if profile.num_threads is not None and chosen.startswith(COMPARED):
        findings.append({"kind": "threads", "value": profile.num_threads, "reason": chosen + KNOWN})
    for name, fact in facts.items():
        value, _, reason = fact.partition(" (")
        reason = reason.removesuffix(")").removesuffix(KNOWN)
        findings.append({"kind": "fact", "name": name, "value": value, "reason": reason + KNOWN})
    return findings
