"""What earlier calibrations of a device left behind: the stored one, and the journal of one that did not end."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from advisor import __version__
from advisor.calibration.journal import JournalContent, JournalHeader, PointJournal
from advisor.calibration.provenance import contribution, moved, provenance_of
from advisor.calibration.store import (
    OLD_NAME,
    NewerCalibrationError,
    calibration_path,
    journal_path,
    load_calibration,
)
from advisor.core.coefficients import Calibration, Contribution, ReplayPoint, StepPoint, version_differences
from advisor.core.device import DeviceProfile
from advisor.core.errors import DeviceError, OutputError
from advisor.core.store import USER_DATA_VARIABLE, ensure_writable_dir

NEEDED_BYTES = 16 * 2**20
"""Free space without which measuring does not begin; a quick calibration of MiniLM wrote 0.1 MB."""


@dataclass
class StoredPoints:
    """What was measured before and may be added to.

    Attributes:
        replays, points: Raw, with ``origin`` pointing into ``provenance``.
        covered: As in ``Calibration``; a set that keeps its order.
        seconds: What measuring them took.
        complete: A complete calibration is stored.
        fresh: The user began anew, now or in the calibration whose journal goes on.
        sets_aside: What is stored is not added to, and kept beside when it is replaced.
        journal: Open for new points; ``None`` when nothing is to be written.
        notes: What the user should know about the files that were found.
    """

    fresh: bool
    replays: list[ReplayPoint] = field(default_factory=list)
    points: list[StepPoint] = field(default_factory=list)
    covered: dict[str, None] = field(default_factory=dict)
    provenance: list[Contribution] = field(default_factory=list)
    seconds: float = 0.0
    complete: bool = False
    sets_aside: bool = False
    journal: PointJournal | None = None
    notes: list[str] = field(default_factory=list)

    def add(
        self,
        replays: Iterable[ReplayPoint],
        points: Iterable[StepPoint],
        provenance: Iterable[Contribution],
        covered: Iterable[str],
    ) -> None:
        """Take points in; those whose times cannot be are left out."""
        by = len(self.provenance)
        self.provenance += provenance
        self.replays += [p for p in moved(replays, by) if p.is_plausible]
        self.points += [p for p in moved(points, by) if p.is_plausible]
        self.covered.update(dict.fromkeys(covered))


def recall(
    device: DeviceProfile, versions: dict[str, str], started_at: str, *, fresh: bool, keep: bool
) -> StoredPoints:
    """Read what is there, if it was made with these versions.

    Args:
        device: The machine at hand.
        versions: In use now.
        started_at: When this calibration began, for the journal's header.
        fresh: Nothing counts as known.
        keep: Open the journal for new points.

    Raises:
        DeviceError: a newer advisor wrote what is stored, and ``fresh`` is not set.
        OutputError: the folder cannot be written, or another calibration is under way.
    """
    known = StoredPoints(fresh, sets_aside=fresh)
    earlier = _stored(device, versions, known)
    header, content = _journaled(device, versions, started_at, known) if keep else (None, JournalContent())
    if header is not None and header.fresh:
        known.fresh = known.sets_aside = True
    if earlier is not None and not known.fresh:
        known.add(earlier.replays, earlier.points, provenance_of(earlier), earlier.covered)
        known.seconds = earlier.seconds
    if header is not None:
        begun = contribution(device, header.started_at, header.advisor_version)
        known.add(content.replays, content.points, (begun,), content.covered)
    return known


def _stored(device: DeviceProfile, versions: dict[str, str], known: StoredPoints) -> Calibration | None:
    """The stored calibration if it can be added to; one that cannot is noted."""
    try:
        earlier = load_calibration(device.id)
    except DeviceError as failure:
        if isinstance(failure, NewerCalibrationError) and not known.fresh:
            raise
        _begin_anew(known, f"the stored calibration cannot be used ({failure.message})")
        return None
    if earlier is None:
        return None
    if found := version_differences(earlier.versions, versions):
        _begin_anew(known, f"the stored calibration was made with other versions ({'; '.join(found)})")
        return None
    known.complete = not earlier.partial
    return earlier


def _begin_anew(known: StoredPoints, why: str) -> None:
    """The old file stays in place until there is something to replace it, and is kept beside it then."""
    known.notes.append(f"{why}: calibrating begins anew, and the old file is kept as {OLD_NAME.format('….json')}")
    known.sets_aside = True


def _journaled(
    device: DeviceProfile, versions: dict[str, str], started_at: str, known: StoredPoints
) -> tuple[JournalHeader | None, JournalContent]:
    """The journal that was left behind if it can be added to; afterwards it is open for new points."""
    try:
        ensure_writable_dir(calibration_path(device.id).parent, needed_bytes=NEEDED_BYTES)
    except OutputError as failure:
        elsewhere = f"free some space, or set {USER_DATA_VARIABLE} to a folder elsewhere"
        raise OutputError(failure.message, fix=elsewhere) from failure
    known.journal = journal = PointJournal(journal_path(device.id))
    header, content, damaged = journal.open()
    usable = header is not None and header.device_id == device.id and header.versions == versions
    if damaged:
        known.notes.append(f"{damaged} damaged lines of {journal.path} were left out")
    if usable and header is not None and not known.fresh:
        return header, content
    journal.begin(
        JournalHeader(device.id, versions, started_at, __version__, known.fresh),
        keep_old=bool(damaged or content.replays or content.points) and not usable,
    )
    return None, JournalContent()
