"""Job: what this machine can do; and the device that a figure is for."""

from __future__ import annotations

from collections.abc import Callable

from advisor.core.device import LOAD_FACT, DeviceProfile
from advisor.core.errors import DeviceError
from advisor.core.plan import Plan
from advisor.pipeline.events import OnEvent, note, phase, progress


def named_device(name: str) -> DeviceProfile | None:
    """The profile of a named device; ``None`` for ``"auto"``, which is this machine.

    Raises:
        DeviceError: no such profile, with near matches.
    """
    from advisor.hardware import load_profile

    return load_profile(name) if name != "auto" else None


def this_machine(
    on_event: OnEvent | None = None, *, probe: Callable[..., DeviceProfile] | None = None
) -> DeviceProfile:
    """The profile of this machine, probed quickly if it never was, or was interrupted before there was a rate to
    predict from.

    Args:
        on_event: Told about a probe.
        probe: Measures this machine; as ``advisor.hardware.probe_device``, which is used when ``None``.
    """
    from advisor.hardware import probe_device, this_device
    from advisor.hardware.host import other_work

    try:
        known = this_device()
        if known.flops_per_s and "memory" in known.bytes_per_s:
            if LOAD_FACT in known.facts and not other_work():
                note(on_event, f"{known.facts[LOAD_FACT]}; it is quiet now: `advisor probe` takes them again")
            return known
    except DeviceError:
        pass
    note(on_event, "this machine has not been probed yet: running a quick probe first (about 15 s)")
    phase(on_event, "probing this machine")
    return (probe or probe_device)(quick=True, on_progress=progress(on_event))


def this_device_id() -> str | None:
    """The id of this machine's probed device; ``None`` when it never was probed."""
    from advisor.hardware import this_device

    try:
        return this_device().id
    except DeviceError:
        return None


def check_runs_here(plan: Plan, *, any_device: bool) -> str:
    """The id of the device that a run of this plan would use here.

    Raises:
        DeviceError: the plan was made for another device, and that was not allowed.
    """
    here = this_device_id()
    if here is None:
        # Never probed: the plan's own device is the best name there is for this machine.
        return plan.device
    if plan.device != here and not any_device:
        raise DeviceError(
            f"the plan was made for {plan.device!r}, but this machine is {here!r}",
            fix="make the plan again with --device auto, or pass --any-device: its predictions do not apply here",
        )
    return here


def probe(*, quick: bool = False, device: str | None = None, on_event: OnEvent | None = None) -> DeviceProfile:
    """Probe a device of this machine and remember it as the one to plan for.

    Args:
        quick: About 15 seconds instead of 60; wider spreads.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:1"``; the first GPU, else the CPU, when ``None``.
        on_event: Told what is being measured (:mod:`advisor.core.events`).

    Raises:
        DeviceError: the device is not there or could not be probed.
    """
    from advisor.hardware import probe_device

    phase(on_event, "probing this machine")
    return probe_device(quick=quick, device=device, on_progress=progress(on_event))
