"""What is known of a device already, what is measured now, and how both become one calibration.

``StoredPoints`` are the points of the stored calibration and of a journal that an interrupted or killed calibration
left, if they were made with the versions in use now. A new point goes into the journal at once.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from advisor.calibration.cross_validation import refit
from advisor.calibration.plan import NOISY, STEPS, BenchmarkCase
from advisor.calibration.profiled_ops import calls_in_steps
from advisor.calibration.provenance import contribution, now_iso, tidied
from advisor.calibration.recall import StoredPoints, recall
from advisor.calibration.store import calibration_path, save_calibration, set_aside
from advisor.core.coefficients import Calibration, ReplayPoint, StepPoint
from advisor.core.device import DeviceProfile
from advisor.core.errors import OutputError
from advisor.core.units import counted
from advisor.costmodel.time.operator_times import execution_key
from advisor.hardware.versions import current_versions

if TYPE_CHECKING:
    from advisor.calibration.replay import ReplayTask


def item_key(model: str, item: BenchmarkCase) -> str:
    """One configuration of an agenda, as ``Calibration.covered`` lists it."""
    shape = f"{item.execution.micro_batch_size}x{item.seq_length}"
    evaluation = " +evaluation" if item.evaluated else ""
    return f"{model} {item.strategy.method} {execution_key(item.execution)} {shape}{evaluation}"


def call_digest(signature: str) -> str:
    """Sixteen hexadecimal digits that tell one call from another."""
    return hashlib.sha256(signature.encode()).hexdigest()[:16]


class CalibrationDatabase:
    """StoredPoints and new points of one device. Use as a context manager.

    Args:
        device: The machine at hand.
        fresh: Nothing counts as known; what is stored stays there until something complete replaces it.
        keep: Journal new points and allow storing; without, nothing is written.

    Attributes:
        new_replays, new_points: Measured by this calibration.
    """

    def __init__(self, device: DeviceProfile, *, fresh: bool = False, keep: bool = True) -> None:
        self.device = device
        self.versions = current_versions(device)
        self.new_replays: list[ReplayPoint] = []
        self.new_points: list[StepPoint] = []
        self._tried: set[str] = set()
        self._asked = {"fresh": fresh, "keep": keep}
        self._known = StoredPoints(fresh)

    def __enter__(self) -> CalibrationDatabase:
        started_at = now_iso()
        self._known = recall(self.device, self.versions, started_at, **self._asked)
        self._in_steps = {(p.key, p.flops, p.moved_bytes) for p in calls_in_steps(self.points)}
        self._known_calls = {p.call for p in self.replays if p.call and p.spread <= NOISY}
        self._known.provenance.append(contribution(self.device, started_at))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._known.journal is not None:
            self._known.journal.close()

    @property
    def replays(self) -> list[ReplayPoint]:
        """Calls known before this calibration."""
        return self._known.replays

    @property
    def points(self) -> list[StepPoint]:
        """Steps known before this calibration."""
        return self._known.points

    @property
    def notes(self) -> list[str]:
        """What the user should know about the files that were found."""
        return self._known.notes

    @property
    def keeps_complete_one(self) -> bool:
        """Whether a complete calibration is stored that something incomplete must not replace."""
        return self._known.fresh and self._known.complete

    def knows_call(self, task: ReplayTask) -> bool:
        """Whether this very call was timed before with little noise, or calls of the same work inside a step."""
        work = (task.key, task.flops, task.moved_bytes)
        return work in self._in_steps or call_digest(task.signature) in self._known_calls

    def knows_steps(self, model: str, item: BenchmarkCase) -> bool:
        """Whether steps of this configuration were measured before, at least ``STEPS`` of them, with little noise.

        Args:
            model: Key of the model.
            item: The configuration.
        """
        return any(
            len(p.step_times_s) >= STEPS and p.noise_relative <= NOISY
            for p in self.points
            if p.same_steps
            == (
                model,
                item.strategy.method,
                execution_key(item.execution),
                item.execution.micro_batch_size,
                item.seq_length,
            )
        )

    def knows_operators(self, model: str, item: BenchmarkCase) -> bool:
        """Whether all operators of this configuration were replayed before, so that it need not be traced."""
        key = item_key(model, item)
        return key in self._known.covered or f"{key} +evaluation" in self._known.covered

    def keep_replay(self, task: ReplayTask, point: ReplayPoint) -> str:
        """Take a new point in; returns a note when it cannot be believed."""
        self._tried.add(task.signature)
        if not point.is_plausible:
            return f"{point.name} was left out: a time of {point.median_s} s cannot be, so the clock jumped"
        point = dataclasses.replace(point, call=call_digest(task.signature), origin=len(self._known.provenance) - 1)
        self.new_replays.append(point)
        self._append("replay", dataclasses.replace(point, origin=0))
        return ""

    def skip_call(self, task: ReplayTask) -> None:
        """Remember that this call cannot be timed."""
        self._tried.add(task.signature)

    def keep_steps(self, point: StepPoint) -> None:
        """Take measured steps in."""
        self._in_steps |= {(p.key, p.flops, p.moved_bytes) for p in calls_in_steps([point])}
        self.new_points.append(dataclasses.replace(point, origin=len(self._known.provenance) - 1))
        self._append("steps", dataclasses.replace(point, origin=0), durable=True)

    def cover(self, model: str, item: BenchmarkCase, tasks: Iterable[ReplayTask]) -> None:
        """Remember a configuration whose calls have all been timed, or cannot be."""
        key = item_key(model, item)
        if key not in self._known.covered and all(t.signature in self._tried or self.knows_call(t) for t in tasks):
            self._known.covered[key] = None
            self._append("covered", key)

    def known_in_words(self) -> str:
        """``"known already: 512 calls and 14 configurations"``; empty when nothing is."""
        if not self.replays and not self.points:
            return ""
        configurations = counted(len({p.same_steps for p in self.points}), "configuration")
        return f"known already: {counted(len(self.replays), 'operator call')} and steps of {configurations}"

    def calibration(self, *, seconds: float, partial: str = "", notes: Sequence[str] = ()) -> Calibration:
        """Everything known and new together, fitted; a new measurement replaces known ones of the same thing."""
        calls = {key for p in self.new_replays for key in _call_keys(p)}
        steps = {p.same_steps for p in self.new_points}
        replays = [*(p for p in self.replays if not calls & set(_call_keys(p)[:1])), *self.new_replays]
        points = [*(p for p in self.points if p.same_steps not in steps), *self.new_points]
        tidy_replays, tidy_points, provenance = tidied(replays, points, self._known.provenance)
        return dataclasses.replace(
            refit(self.device, self.versions, tidy_replays, tidy_points),
            seconds=self._known.seconds + seconds,
            partial=partial,
            notes=tuple(dict.fromkeys((*self.notes, *notes, *self._journal_trouble()))),
            covered=tuple(self._known.covered),
            provenance=provenance,
        )

    def store(self, calibration: Calibration) -> Path:
        """Save a calibration; the journal, whose points it holds, goes.

        Raises:
            OutputError: it cannot be written; the message says where the points are instead.
        """
        try:
            if self._known.sets_aside:
                set_aside(calibration_path(self.device.id))
            path = save_calibration(calibration)
        except OutputError as failure:
            raise OutputError(failure.message, fix=self._rescued(failure.fix or "")) from failure
        if self._known.journal is not None:
            self._known.journal.remove()
        return path

    def _rescued(self, fix: str) -> str:
        journal = self._known.journal
        if journal is None or journal.trouble:
            return fix
        return f"{fix}; what was measured is kept in {journal.path}, and `advisor calibrate` goes on from it"

    def _append(self, kind: str, value: object, *, durable: bool = False) -> None:
        if self._known.journal is not None:
            self._known.journal.append(kind, value, durable=durable)

    def _journal_trouble(self) -> list[str]:
        trouble = self._known.journal.trouble if self._known.journal is not None else ""
        return [f"points could not be kept while measuring ({trouble}): a kill would have lost them"] if trouble else []


def _call_keys(point: ReplayPoint) -> tuple[object, ...]:
    """Under which a point is replaced: its call, and what is left of calls that were stored without a digest."""
    work = (point.name, point.key, point.flops, point.moved_bytes)
    return ((point.call, *work), ("", *work))
