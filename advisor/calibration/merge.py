"""Several calibrations of one device become one: raw points together, duplicates dropped, every fit made again."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from advisor.calibration.cross_validation import refit
from advisor.calibration.provenance import MergedPart, moved, provenance_of, tidied
from advisor.core.coefficients import Calibration, Contribution, ReplayPoint, StepPoint, version_differences
from advisor.core.device import DeviceProfile
from advisor.core.errors import DeviceError


@dataclass(frozen=True)
class Part:
    """One calibration to merge.

    Attributes:
        name: What messages call it: a file name, or ``"what is stored"``.
        file, checksum: Of the file it comes from; empty for what was measured or stored here.
    """

    name: str
    device: DeviceProfile
    calibration: Calibration
    file: str = ""
    checksum: str = ""


def check_mixable(parts: Sequence[Part]) -> None:
    """Refuse parts of different devices, drivers or libraries.

    Raises:
        DeviceError: with every difference.
    """
    first, problems = parts[0], []
    for other in parts[1:]:
        ids = {"device": first.calibration.device_id}, {"device": other.calibration.device_id}
        versions = ids[0] | first.calibration.versions, ids[1] | other.calibration.versions
        problems += version_differences(*versions, first=first.name, second=other.name)
    if problems:
        raise DeviceError(
            "calibrations may be merged only when device, driver and library versions are equal, but they differ",
            problems=list(dict.fromkeys(problems)),
            fix="merge those that are alike; with --fresh a file replaces what is stored instead of adding to it",
        )


def merge(parts: Sequence[Part]) -> tuple[Calibration, tuple[MergedPart, ...]]:
    """One calibration with the points of all parts, and what each brought.

    Args:
        parts: At least one; of a call that several timed, all times count.

    Raises:
        DeviceError: they are not alike.
    """
    check_mixable(parts)
    replays: dict[object, ReplayPoint] = {}
    points: dict[object, StepPoint] = {}
    provenance: list[Contribution] = []
    shares: list[MergedPart] = []
    for part in parts:
        before = len(replays), len(points)
        for call in moved(part.calibration.replays, len(provenance)):
            replays.setdefault(dataclasses.replace(call, share=0, origin=0), call)
        for steps in moved(part.calibration.points, len(provenance)):
            points.setdefault(_identity(steps), steps)
        provenance += _entries(part)
        new = len(replays) - before[0], len(points) - before[1]
        offered = len(part.calibration.replays) + len(part.calibration.points)
        shares.append(MergedPart(part.name, *new, offered - sum(new)))
    return _joined(parts, shares, tidied(list(replays.values()), list(points.values()), provenance)), tuple(shares)


def _identity(point: StepPoint) -> object:
    """Two points with the same raw times of the same configuration are one measurement."""
    return (*point.same_steps, point.step_times_s)


def _entries(part: Part) -> list[Contribution]:
    """The part's entries; what was measured by whoever wrote a file is said to come from that file."""
    return [
        entry if entry.file or not part.file else dataclasses.replace(entry, file=part.file, checksum=part.checksum)
        for entry in provenance_of(part.calibration)
    ]


def _joined(
    parts: Sequence[Part],
    shares: Sequence[MergedPart],
    raw: tuple[tuple[ReplayPoint, ...], tuple[StepPoint, ...], tuple[Contribution, ...]],
) -> Calibration:
    replays, points, provenance = raw
    given = [p.calibration for p, share in zip(parts, shares, strict=True) if share.replays or share.points]
    return dataclasses.replace(
        refit(parts[0].device, parts[0].calibration.versions, replays, points),
        seconds=sum(c.seconds for c in given),
        partial="; ".join(dict.fromkeys(c.partial for c in given if c.partial)),
        notes=tuple(dict.fromkeys(note for c in given for note in c.notes)),
        covered=tuple(dict.fromkeys(key for c in given for key in c.covered)),
        provenance=provenance,
    )
