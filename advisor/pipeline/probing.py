"""Job: what this machine can do."""

from __future__ import annotations

from advisor.core.device import DeviceProfile
from advisor.pipeline.events import OnEvent, phase, progress


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
