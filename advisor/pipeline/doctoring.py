"""Job: say what will work on this machine, and what to do about the rest."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from advisor.core.errors import AdvisorError
from advisor.hardware.backends.contact import Check


@dataclass(frozen=True)
class Diagnosis:
    """What was looked at on this machine.

    Attributes:
        checks: In the order in which they are worth reading.
        works: Whether there is no problem among them.
        wall_s: How long looking took.
    """

    checks: tuple[Check, ...]
    works: bool
    wall_s: float


def doctor(output: Path | None = None) -> Diagnosis:
    """Look at this machine for at most ten seconds; nothing is stored.

    Args:
        output: Folder in which results would be stored; the current one when ``None``.
    """
    from advisor.hardware.doctor import examine
    from advisor.hardware.inspection import inspect_machine

    begin = time.monotonic()
    checks = (*examine(inspect_machine(output or Path.cwd())), calibration_check())
    works = all(check.state != "problem" for check in checks)
    return Diagnosis(checks, works, time.monotonic() - begin)


def calibration_check() -> Check:
    """Whether what was measured here is valid for the installed versions."""
    from advisor.calibration.database import load_calibration
    from advisor.hardware import this_device
    from advisor.hardware.versions import current_versions

    action = "`advisor calibrate run MODEL`, or with `--quick` in a minute"
    try:
        device = this_device()
        versions = current_versions(device)
        found = load_calibration(device.id, versions)
    except AdvisorError:
        return Check("calibration", "note", "this machine has not been calibrated: intervals are wide", action)
    if found is None:
        return Check("calibration", "note", f"{device.name} has not been calibrated: intervals are wide", action)
    changed = sorted(name for name in versions if found.versions.get(name) not in (None, versions[name]))
    if changed:
        then = ", ".join(f"{name} {found.versions[name]} is now {versions[name]}" for name in changed)
        return Check("calibration", "note", f"made with other versions, so it does not count: {then}", action)
    return Check("calibration", "ok", f"calibrated on {found.created_at[:10] or 'an unknown day'}")
