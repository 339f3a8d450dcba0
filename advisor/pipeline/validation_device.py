"""Which device a validation runs on, what it can hold now, and what its records have in common."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from advisor.core.device import DeviceProfile, DeviceType
from advisor.core.errors import DeviceError, InputError, RunFailed
from advisor.pipeline.environment import versions
from advisor.pipeline.events import OnEvent, note, phase, progress
from advisor.pipeline.predicting import cost_model_for

if TYPE_CHECKING:
    from advisor.experiments.validation.prediction import GridDevice
    from advisor.experiments.validation.record import GridName, Header, Kind

RECORDED_VERSIONS = ("python", "torch", "transformers", "peft", "accelerate", "bitsandbytes")
"""What decides how much a step allocates; other versions of these go into a file of their own."""


def device_type_of(grid: GridName | None, device: str) -> tuple[DeviceType, GridName]:
    """Where the grid runs, and which grid when none was named.

    Raises:
        InputError: an unknown grid, or one that belongs to the other kind of device.
        DeviceError: no GPU here.
    """
    from advisor.experiments.validation.grids import GRIDS

    if grid is not None and grid not in GRIDS:
        raise InputError(f"the grid must be one of {', '.join(GRIDS)}, but got {grid!r}")
    own = {"cpu": "cpu", "cpu-wide": "cpu", "cuda": "cuda"}.get(grid or "", device)
    if device not in ("auto", own):
        raise InputError(f"the grid {grid} must run on {own}, but got --device {device}", fix=f"use --device {own}")
    if own == "cpu":
        return "cpu", grid or "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda", grid or "cuda"
    if own == "cuda":
        raise DeviceError(
            "a CUDA device is needed, but torch finds none here",
            fix="run it on a machine with a GPU and a CUDA build of torch, or use --grid cpu",
        )
    return "cpu", grid or "cpu"


def setting_of(
    kind: Kind, grid: GridName, device_type: DeviceType, on_event: OnEvent | None
) -> tuple[GridDevice, Header]:
    """The device at hand as the cost model sees it, and what its records have in common.

    Raises:
        DeviceError: the GPU does not work.
    """
    from advisor.experiments.validation.prediction import GridDevice
    from advisor.experiments.validation.record import Header

    device = _profile(device_type, on_event)
    capacity_bytes = device.memory_bytes
    if device_type == "cuda":
        device, capacity_bytes = _at_hand(device)
    found = versions()
    setting = GridDevice(device, cost_model_for(device, on_event).calibration, capacity_bytes)
    header = Header(
        kind=kind,
        grid=grid,
        device_id=device.id,
        device_name=device.name,
        device_type=device_type,
        memory_bytes=device.memory_bytes,
        capacity_bytes=capacity_bytes,
        compute_capability=device.compute_capability,
        driver=device.facts["driver"].split(" (", 1)[0] if "driver" in device.facts else None,
        versions={name: found[name] for name in RECORDED_VERSIONS if name in found},
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        device=device,
    )
    return setting, header


def _profile(device_type: DeviceType, on_event: OnEvent | None) -> DeviceProfile:
    """The profile of this machine's device of that type, probed quickly if there is none."""
    from advisor.hardware import probe_device, this_device

    try:
        saved = this_device()
    except DeviceError:
        saved = None
    if saved is not None and saved.type == device_type:
        return saved
    note(on_event, f"this machine's {device_type} has not been probed yet: a quick probe comes first (about 15 s)")
    phase(on_event, "probing this machine")
    return probe_device(quick=True, device=device_type, on_progress=progress(on_event), save=saved is None)


def _at_hand(device: DeviceProfile) -> tuple[DeviceProfile, int]:
    """The GPU's profile with the context measured here if the probe could not, and what a process can hold of it now.

    Raises:
        DeviceError: the GPU does not work.
    """
    from advisor.measurement.validation import cuda_facts

    try:
        facts = cuda_facts()
    except RunFailed as failure:
        raise DeviceError(f"the CUDA device must work, but {failure.message}", fix="check it with nvidia-smi") from None
    context_bytes = device.context_bytes or facts.context_bytes or 0
    device = dataclasses.replace(device, context_bytes=context_bytes)
    return device, min(facts.total_bytes, facts.free_bytes + (facts.context_bytes or context_bytes))


def environment_hash(header: Header) -> str:
    """What must be the same for records to stand in one file."""
    content = json.dumps([header.driver, header.memory_bytes, header.versions], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:8]
