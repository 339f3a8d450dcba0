"""What is known of a device already, what is measured now, and how both become one calibration.

Known are the points of the stored calibration and of a journal that an interrupted or killed calibration left, if they
were made with the versions in use now. A new point goes into the journal at once.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from advisor import __version__
from advisor.core.device import DeviceProfile
from advisor.core.errors import DeviceError, OutputError
from advisor.core.store import USER_DATA_VARIABLE, ensure_writable_dir
from advisor.costmodel.calibration.agenda import Item
from advisor.costmodel.calibration.in_step import calls_in_steps
from advisor.costmodel.calibration.journal import JournalContent, JournalHeader, PointJournal
from advisor.costmodel.calibration.provenance import contribution, moved, now_iso, provenance_of, tidied
from advisor.costmodel.calibration.record import Calibration, Contribution, ReplayPoint, StepPoint
from advisor.costmodel.calibration.refit import refit
from advisor.costmodel.calibration.sanity import NOISY, is_believable
from advisor.costmodel.calibration.store import (
    OLD_NAME,
    NewerCalibrationError,
    calibration_path,
    journal_path,
    load_calibration,
    save_calibration,
    set_aside,
    version_differences,
)
from advisor.costmodel.calibration.versions import current_versions
from advisor.costmodel.time.keys import execution_key

if TYPE_CHECKING:
    from advisor.costmodel.calibration.replay import ReplayTask

NEEDED_BYTES = 16 * 2**20
"""Free space without which measuring does not begin: four times what a full calibration of five models wrote."""


def item_key(model: str, item: Item) -> str:
    """One configuration of an agenda, as ``Calibration.covered`` lists it."""
    shape = f"{item.execution.micro_batch_size}x{item.seq_length}"
    evaluation = " +evaluation" if item.evaluated else ""
    return f"{model} {item.strategy.method} {execution_key(item.execution)} {shape}{evaluation}"


def call_digest(signature: str) -> str:
    """Sixteen hexadecimal digits that tell one call from another."""
    return hashlib.sha256(signature.encode()).hexdigest()[:16]


class Ledger:
    """Known and new points of one device. Use as a context manager.

    Args:
        device: The machine at hand.
        fresh: Nothing counts as known; what is stored stays there until something complete replaces it.
        keep: Journal new points and allow storing; without, nothing is written.

    Attributes:
        replays, points: Known before this calibration.
        new_replays, new_points: Measured by it.
        notes: What the user should know about the files that were found.
    """

    def __init__(self, device: DeviceProfile, *, fresh: bool = False, keep: bool = True) -> None:
        self.device = device
        self.versions = current_versions(device)
        self.fresh = fresh
        self.replays: list[ReplayPoint] = []
        self.points: list[StepPoint] = []
        self.new_replays: list[ReplayPoint] = []
        self.new_points: list[StepPoint] = []
        self.notes: list[str] = []
        self.seconds_before = 0.0
        self.earlier_is_complete = False
        self._covered: dict[str, None] = {}
        self._tried: set[str] = set()
        self._provenance: list[Contribution] = []
        self._started_at = now_iso()
        self._keep = keep
        self._sets_aside = fresh
        self._journal: PointJournal | None = None

    def __enter__(self) -> Ledger:
        earlier = self._earlier()
        header, content = self._open_journal() if self._keep else (None, JournalContent())
        if header is not None and header.fresh:
            self.fresh = self._sets_aside = True
        if earlier is not None and not self.fresh:
            self._know(earlier.replays, earlier.points, provenance_of(earlier), earlier.covered)
            self.seconds_before = earlier.seconds
        if header is not None:
            begun = contribution(self.device, header.started_at, header.advisor_version)
            self._know(content.replays, content.points, (begun,), content.covered)
        self._in_steps = {(p.key, p.flops, p.moved_bytes) for p in calls_in_steps(self.points)}
        self._known_calls = {p.call for p in self.replays if p.call and p.spread <= NOISY}
        self._provenance.append(contribution(self.device, self._started_at))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._journal is not None:
            self._journal.close()

    def knows_call(self, task: ReplayTask) -> bool:
        """Whether this very call was timed before with little noise, or calls of the same work inside a step."""
        work = (task.key, task.flops, task.moved_bytes)
        return work in self._in_steps or call_digest(task.signature) in self._known_calls

    def knows_steps(self, model: str, item: Item, steps: int, *, with_memory: bool = False) -> bool:
        """Whether steps of this configuration were measured before, as often, with little noise.

        Args:
            model: Key of the model.
            item: The configuration.
            steps: Repeats wanted.
            with_memory: The step must have been under the memory profiler too.
        """
        return any(
            len(p.step_times_s) >= steps
            and p.noise_relative <= NOISY
            and (p.allocated_peak_bytes is not None or not with_memory)
            for p in self.points
            if _steps_key(p)
            == (
                model,
                item.strategy.method,
                execution_key(item.execution),
                item.execution.micro_batch_size,
                item.seq_length,
            )
        )

    def knows_operators(self, model: str, item: Item) -> bool:
        """Whether all operators of this configuration were replayed before, so that it need not be traced."""
        key = item_key(model, item)
        return key in self._covered or f"{key} +evaluation" in self._covered

    def keep_replay(self, task: ReplayTask, point: ReplayPoint) -> str:
        """Take a new point in; returns a note when it cannot be believed."""
        self._tried.add(task.signature)
        if not is_believable(point):
            return f"{point.name} was left out: a time of {point.median_s} s cannot be, so the clock jumped"
        point = dataclasses.replace(point, call=call_digest(task.signature), origin=len(self._provenance) - 1)
        self.new_replays.append(point)
        self._append("replay", dataclasses.replace(point, origin=0))
        return ""

    def skip_call(self, task: ReplayTask) -> None:
        """Remember that this call cannot be timed."""
        self._tried.add(task.signature)

    def keep_steps(self, point: StepPoint) -> None:
        """Take measured steps in."""
        self._in_steps |= {(p.key, p.flops, p.moved_bytes) for p in calls_in_steps([point])}
        self.new_points.append(dataclasses.replace(point, origin=len(self._provenance) - 1))
        self._append("steps", dataclasses.replace(point, origin=0), durable=True)

    def cover(self, model: str, item: Item, tasks: Iterable[ReplayTask]) -> None:
        """Remember a configuration whose calls have all been timed, or cannot be."""
        key = item_key(model, item)
        if key not in self._covered and all(t.signature in self._tried or self.knows_call(t) for t in tasks):
            self._covered[key] = None
            self._append("covered", key)

    def known_in_words(self) -> str:
        """``"known already: 512 calls and 14 configurations"``; empty when nothing is."""
        if not self.replays and not self.points:
            return ""
        return f"known already: {len(self.replays)} operator calls and steps of {len(self.points)} configurations"

    def calibration(self, *, seconds: float, partial: str = "", notes: Sequence[str] = ()) -> Calibration:
        """Everything known and new together, fitted; a new measurement replaces known ones of the same thing."""
        calls = {key for p in self.new_replays for key in _call_keys(p)}
        steps = {_steps_key(p) for p in self.new_points}
        replays = [*(p for p in self.replays if not calls & set(_call_keys(p)[:1])), *self.new_replays]
        points = [*(p for p in self.points if _steps_key(p) not in steps), *self.new_points]
        tidy_replays, tidy_points, provenance = tidied(replays, points, self._provenance)
        return dataclasses.replace(
            refit(self.device, self.versions, tidy_replays, tidy_points),
            seconds=self.seconds_before + seconds,
            partial=partial,
            notes=tuple(dict.fromkeys((*self.notes, *notes, *self._journal_trouble()))),
            covered=tuple(self._covered),
            provenance=provenance,
        )

    def store(self, calibration: Calibration) -> Path:
        """Save a calibration; the journal, whose points it holds, goes.

        Raises:
            OutputError: it cannot be written; the message says where the points are instead.
        """
        try:
            if self._sets_aside:
                set_aside(calibration_path(self.device.id))
            path = save_calibration(calibration)
        except OutputError as failure:
            raise OutputError(failure.message, fix=self._rescued(calibration, failure.fix or "")) from failure
        if self._journal is not None:
            self._journal.remove()
        return path

    def _rescued(self, calibration: Calibration, fix: str) -> str:
        if self._journal is not None and not self._journal.trouble:
            kept = f"what was measured is kept in {self._journal.path}, and `advisor calibrate` goes on from it"
            return f"{fix}; {kept}"
        return fix

    def _earlier(self) -> Calibration | None:
        """The stored calibration if it can be added to; one that cannot is noted, and put aside when it is replaced."""
        try:
            earlier = load_calibration(self.device.id)
        except DeviceError as failure:
            if isinstance(failure, NewerCalibrationError) and not self.fresh:
                raise
            self._begin_anew(f"the stored calibration cannot be used ({failure.message})")
            return None
        if earlier is None:
            return None
        found = version_differences(earlier, self.versions)
        if found:
            self._begin_anew(f"the stored calibration was made with other versions ({'; '.join(found)})")
            return None
        self.earlier_is_complete = not earlier.partial
        return earlier

    def _begin_anew(self, why: str) -> None:
        """The old file stays in place until there is something to replace it, and is kept beside it then."""
        self.notes.append(f"{why}: calibrating begins anew, and the old file is kept as {OLD_NAME.format('….json')}")
        self._sets_aside = True

    def _open_journal(self) -> tuple[JournalHeader | None, JournalContent]:
        """The journal that was left behind if it can be added to; afterwards it is open for new points."""
        try:
            ensure_writable_dir(calibration_path(self.device.id).parent, needed_bytes=NEEDED_BYTES)
        except OutputError as failure:
            elsewhere = f"free some space, or set {USER_DATA_VARIABLE} to a folder elsewhere"
            raise OutputError(failure.message, fix=elsewhere) from failure
        journal = PointJournal(journal_path(self.device.id))
        header, content, damaged = journal.open()
        self._journal = journal
        usable = header is not None and header.device_id == self.device.id and header.versions == self.versions
        if damaged:
            self.notes.append(f"{damaged} damaged lines of {journal.path} were left out")
        if usable and header is not None and not self.fresh:
            return header, content
        journal.begin(
            JournalHeader(self.device.id, self.versions, self._started_at, __version__, self.fresh),
            keep_old=bool(damaged or content.replays or content.points) and not usable,
        )
        return None, JournalContent()

    def _know(
        self,
        replays: Iterable[ReplayPoint],
        points: Iterable[StepPoint],
        provenance: Iterable[Contribution],
        covered: Iterable[str],
    ) -> None:
        by = len(self._provenance)
        self._provenance += provenance
        self.replays += [p for p in moved(replays, by) if is_believable(p)]
        self.points += [p for p in moved(points, by) if is_believable(p)]
        self._covered.update(dict.fromkeys(covered))

    def _append(self, kind: str, value: object, *, durable: bool = False) -> None:
        if self._journal is not None:
            self._journal.append(kind, value, durable=durable)

    def _journal_trouble(self) -> list[str]:
        if self._journal is None or not self._journal.trouble:
            return []
        return [f"points could not be kept while measuring ({self._journal.trouble}): a kill would have lost them"]


def _call_keys(point: ReplayPoint) -> tuple[object, ...]:
    """Under which a point is replaced: its call, and what is left of calls that were stored without a digest."""
    work = (point.name, point.key, point.flops, point.moved_bytes)
    return ((point.call, *work), ("", *work))


def _steps_key(point: StepPoint) -> tuple[object, ...]:
    return (point.model_key, point.method, point.execution_key, point.micro_batch_size, point.seq_length)
