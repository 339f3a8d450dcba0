"""Who measured which part of a calibration's raw points."""

from __future__ import annotations

import dataclasses
import datetime
import platform
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from advisor import __version__
from advisor.core.coefficients import Calibration, Contribution, ReplayPoint, StepPoint
from advisor.core.device import DeviceProfile

Point = TypeVar("Point", ReplayPoint, StepPoint)

MACHINE_FACTS = (
    "cpu",
    "cores",
    "core_quota",
    "driver",
    "cuda",
    "multi_processors",
    "power_limit_w",
    "ecc",
    "mig",
    "pcie",
)
"""Facts of a probed device that say what kind of machine it is; none names the host."""


@dataclass(frozen=True)
class MergedPart:
    """What one part of a merge brought.

    Attributes:
        replays, points: New ones.
        duplicates: Points that an earlier part had already.
    """

    name: str
    replays: int
    points: int
    duplicates: int


def now_iso() -> str:
    """The current time to the second, ISO 8601, UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def machine_of(device: DeviceProfile) -> dict[str, str]:
    """What kind of machine measured: device, memory, operating system, and the facts above without their reasons."""
    facts = {name: device.facts[name].split(" (", 1)[0] for name in MACHINE_FACTS if name in device.facts}
    return {
        "device": device.name,
        "memory_bytes": str(device.memory_bytes),
        "system": f"{platform.system()} {platform.machine()}",
        **facts,
    }


def contribution(device: DeviceProfile, measured_at: str, advisor_version: str = __version__) -> Contribution:
    """The entry of a calibration run on this machine."""
    return Contribution(measured_at, advisor_version, machine_of(device))


def provenance_of(calibration: Calibration) -> tuple[Contribution, ...]:
    """The entries of a calibration; one that was stored without any has a single unknown one."""
    return calibration.provenance or (Contribution(calibration.created_at, "unknown", {}),)


def moved(points: Iterable[Point], by: int) -> list[Point]:
    """The same points with their entries' indices moved, for a list of entries that was put behind another."""
    return [dataclasses.replace(point, origin=point.origin + by) for point in points]


def tidied(
    replays: Sequence[ReplayPoint], points: Sequence[StepPoint], provenance: Sequence[Contribution]
) -> tuple[tuple[ReplayPoint, ...], tuple[StepPoint, ...], tuple[Contribution, ...]]:
    """Entries with their counts, those of which nothing is left dropped, and the points pointing at what remains.

    An index outside the list means the first entry.
    """
    last = len(provenance) - 1
    replay_counts = Counter(p.origin if 0 <= p.origin <= last else 0 for p in replays)
    point_counts = Counter(p.origin if 0 <= p.origin <= last else 0 for p in points)
    kept = [index for index in range(len(provenance)) if replay_counts[index] or point_counts[index]]
    places = {old: new for new, old in enumerate(kept)}
    entries = tuple(
        dataclasses.replace(provenance[index], replays=replay_counts[index], points=point_counts[index])
        for index in kept
    )
    return (
        tuple(dataclasses.replace(p, origin=places.get(p.origin, 0)) for p in replays),
        tuple(dataclasses.replace(p, origin=places.get(p.origin, 0)) for p in points),
        entries,
    )
