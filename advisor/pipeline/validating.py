"""Job: run a grid for real on the device at hand, and compare it with what was predicted beforehand."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advisor.core.code_version import TRAINING_LIBRARIES
from advisor.core.device import DeviceProfile
from advisor.core.errors import DeviceError, InputError
from advisor.core.events import OnEvent
from advisor.core.store import ensure_writable_dir, user_data_dir
from advisor.core.units import format_duration
from advisor.hardware.backends import backends_by_preference, get_backend
from advisor.hardware.versions import installed_versions
from advisor.pipeline.events import note, phase, progress
from advisor.pipeline.predicting import cost_model_for

if TYPE_CHECKING:
    from advisor.core.coefficients import Calibration
    from advisor.experiments.error_statistics import AcceptanceThreshold
    from advisor.experiments.grid import Cell, Shard, Stopped
    from advisor.experiments.runs import RunsComparison
    from advisor.experiments.store import RecordStore
    from advisor.experiments.validation.cases import Case
    from advisor.experiments.validation.compare import MemoryComparison, TimeComparison
    from advisor.experiments.validation.predict import GridDevice
    from advisor.experiments.validation.records import GridName, Header, Kind, Record

PREDICTION_SHARE = 0.5
"""Predictions take at most this share of a time limit, so that something is measured too."""
RECORDED_VERSIONS = ("python", *TRAINING_LIBRARIES)
"""What decides how much a step allocates; other versions of these go into a file of their own."""


@dataclass(frozen=True)
class Validation:
    """What a validation found so far.

    Attributes:
        header: Device, driver and versions.
        path: The file of records.
        records: Of the grid's cases, those of other shards and earlier calls included.
        comparison: Errors of their memory; ``None`` where only time was measured.
        times: Errors of their step times; ``None`` where only memory was measured.
        remaining: Cases of this call's shard that are still to be run.
        stopped: Why the call ended before them, if it did.
    """

    header: Header
    path: Path
    records: tuple[Record, ...]
    comparison: MemoryComparison | None
    times: TimeComparison | None
    remaining: int = 0
    stopped: Stopped = ""

    @property
    def thresholds(self) -> tuple[AcceptanceThreshold, ...]:
        """All thresholds, of memory and of time."""
        return tuple(t for found in (self.comparison, self.times) if found is not None for t in found.thresholds)


def validate(
    kind: Kind,
    *,
    grid: GridName | None = None,
    device: str = "auto",
    shard: Shard = (1, 1),
    time_limit_s: float | None = None,
    output: Path | None = None,
    resume: bool = True,
    repeats: int | None = None,
    cases: Sequence[Case] | None = None,
    on_event: OnEvent | None = None,
) -> Validation:
    """Run a grid's cases, each in a process of its own, and compare memory, step time or both with the prediction.

    Args:
        kind: ``"memory"``, ``"time"``, or ``"all"`` for both in one run.
        grid: ``"cpu"``, ``"cpu-wide"`` (time), ``"cuda"`` or ``"quick"``; that of the device at hand when ``None``.
        device: Where to run it; ``"auto"`` is the grid's own, and for ``quick`` the GPU if there is one.
        shard: ``(i, n)``: every n-th case from the i-th on.
        time_limit_s: No case begins that would end later; another call continues.
        output: Folder of the records; the user's data directory when ``None``.
        resume: Keep what was measured before with the same device and versions; only cases that failed are run again.
        repeats: Timed steps per case; the grid's own number when ``None``.
        cases: Instead of the grid's own.
        on_event: Receives the job's events (:mod:`advisor.core.events`).

    Raises:
        InputError: an unknown grid or an impossible shard.
        DeviceError: the grid needs a GPU and there is none.
        OutputError: the folder cannot be written, or the disk is full; what was measured is kept.
    """
    from advisor.experiments.grid import shard_of
    from advisor.experiments.store import RecordStore
    from advisor.experiments.validation.cases import cells_of, validation_grid
    from advisor.experiments.validation.records import FORMAT, file_name

    started_s = time.monotonic()
    shard_of((), shard)
    folder = output if output is not None else user_data_dir("validation")
    ensure_writable_dir(folder)
    device_type, chosen = _place(grid, device)
    wanted = cells_of(cases) if cases is not None else validation_grid(chosen, device_type, kind, repeats)
    where, header = _at_hand(kind, chosen, device_type, on_event)
    path = folder / file_name(header)
    mine = shard_of(wanted, shard)
    with RecordStore(path, header, FORMAT, resume=resume) as store:
        missing = [cell for cell in mine if not store.is_done(cell.key)]
        note(on_event, f"{len(missing)} of {len(mine)} cases to run; records go to {path}")
        stopped = _run(missing, where, store, started_s, time_limit_s, on_event)
        records = tuple(store.records[cell.key] for cell in wanted if cell.key in store.records)
        remaining = sum(cell.key not in store.records for cell in mine)
        found = _compared(store.header, path, records)
    return dataclasses.replace(found, remaining=remaining, stopped=stopped)


def recorded_validation(
    paths: Path | Sequence[Path],
    *,
    what: Kind = "all",
    predict_again: bool = False,
    calibration: Path | None = None,
    on_event: OnEvent | None = None,
) -> Validation:
    """The comparison of files of records, without running anything; it needs none of the devices.

    Args:
        paths: Of the records; several of one kind and device count as one, a case that is in two of them once, with
            the last that completed.
        what: ``"memory"`` or ``"time"``: what to show; ``"all"`` that the records are of. Records of step times also
            hold the memory that the processes took.
        predict_again: Compare the measurements with what this version predicts instead of what was predicted then.
        calibration: With ``predict_again``: the calibration to predict with; this machine's own, if the records are of
            its device, when ``None``.
        on_event: Receives the job's events.

    Raises:
        InputError: there is no such file, it is damaged, holds no step times although they are asked for, does not say
            what device it is of, or does not belong to the others; or the calibration is of another device.
    """
    from advisor.experiments.validation.records import read_validation

    files = [paths] if isinstance(paths, Path) else list(paths)
    header, records = read_validation(files)
    if (what, header.kind) == ("time", "memory"):
        raise InputError(
            f"--records must hold step times, but those in {files[0]} are of memory",
            fix=f"advisor validate memory --records {files[0]}",
        )
    if predict_again:
        records = _predicted_again(header, records, calibration, on_event)
    return _compared(header, files[0], records, shown=None if what == "all" else what)


def validate_runs(folders: Sequence[Path]) -> RunsComparison:
    """The comparison of finished runs with their plans, without running anything.

    Args:
        folders: Outputs of ``run``; those without a record are named and left out.

    Raises:
        InputError: none of them has a record.
    """
    from advisor.experiments.runs import read_runs

    return read_runs(folders)


def _compared(header: Header, path: Path, records: tuple[Record, ...], shown: Kind | None = None) -> Validation:
    """Records with the comparisons of ``shown``, by default those that their kind has."""
    from advisor.experiments.validation.compare import compare_memory, compare_times

    shown = shown or header.kind
    memory = compare_memory(records, header.device_type) if shown != "time" else None
    times = compare_times(records, header.device_type, header.device) if shown != "memory" else None
    return Validation(header, path, records, memory, times)


def _run(
    cells: Sequence[Cell[Case]],
    where: GridDevice,
    store: RecordStore[Header, Record],
    started_s: float,
    time_limit_s: float | None,
    on_event: OnEvent | None,
) -> Stopped:
    """Predict as many cases as the time allows, then run them."""
    from advisor.experiments.grid import CellEvent, run_cells
    from advisor.experiments.validation.measure import MeasureCase
    from advisor.experiments.validation.predict import predicted_cells
    from advisor.experiments.validation.records import summary_of
    from advisor.hardware.host import inspect_host

    measure, report = MeasureCase(store.header.kind, where.device.type), progress(on_event)

    def show(event: CellEvent[Any, Any]) -> None:
        if event.record is not None:
            report(event.cell.label, event.number / event.total)
            note(on_event, f"[{event.number}/{event.total}] {event.cell.label}: {summary_of(event.record)}")

    try:
        phase(on_event, f"predicting {len(cells)} cases")
        deadline_s = None if time_limit_s is None else started_s + PREDICTION_SHARE * time_limit_s
        prepared = predicted_cells(
            cells, where, measure.expected_s, workers=inspect_host().cores, deadline_s=deadline_s, on_case=report
        )
        pace = measure.pace(store.records.values())
        if total_s := sum(pace.expected_s(cell) for cell in prepared):
            note(on_event, f"they will take about {format_duration(total_s)}")
        phase(on_event, f"running {len(prepared)} cases on {where.device.name}")
        left_s = None if time_limit_s is None else started_s + time_limit_s - time.monotonic()
        stopped = run_cells(prepared, measure, store, time_limit_s=left_s, pace=pace, on_event=show)
    except KeyboardInterrupt:
        return "interrupted"
    return stopped if stopped or len(prepared) == len(cells) else "time limit"


def _place(grid: GridName | None, device: str) -> tuple[str, GridName]:
    """Where the grid runs, and which grid when none was named.

    Raises:
        InputError: an unknown grid, or one that belongs to the other kind of device.
        DeviceError: no GPU here.
    """
    from advisor.experiments.validation.cases import GRIDS, device_of

    if grid is not None and grid not in GRIDS:
        raise InputError(f"the grid must be one of {', '.join(GRIDS)}, but got {grid!r}")
    own = (device_of(grid) if grid is not None else None) or device
    if device not in ("auto", own):
        raise InputError(f"the grid {grid} must run on {own}, but got --device {device}", fix=f"use --device {own}")
    wanted = backends_by_preference() if own == "auto" else (get_backend(own),)
    for backend in wanted:
        if backend.runtime.count():
            usual = next((name for name in GRIDS if device_of(name) == backend.name), GRIDS[0])
            return backend.name, grid or usual
    raise DeviceError(
        f"{wanted[0].title} is needed, but torch finds none here",
        fix="run it on a machine with such a device and a build of torch for it, or use --grid cpu",
    )


def _at_hand(kind: Kind, grid: GridName, device_type: str, on_event: OnEvent | None) -> tuple[GridDevice, Header]:
    """The device at hand as the cost model sees it, and what its records have in common.

    Raises:
        DeviceError: the GPU does not work.
    """
    from advisor.experiments.validation.predict import GridDevice
    from advisor.experiments.validation.records import Header

    device = _profile(device_type, on_event)
    capacity_bytes = device.memory_bytes
    if not get_backend(device_type).is_host:
        from advisor.experiments.validation.measure import gpu_at_hand

        device, capacity_bytes = gpu_at_hand(device)
    found = installed_versions()
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
    return GridDevice(device, cost_model_for(device, on_event).calibration, capacity_bytes), header


def _profile(device_type: str, on_event: OnEvent | None) -> DeviceProfile:
    """The profile of this machine's device of that type, probed quickly if there is none."""
    from advisor.hardware import probe_device, this_device

    try:
        saved = this_device()
    except DeviceError:
        saved = None
    if saved is not None and saved.type == device_type:
        return saved
    note(on_event, f"this machine's {device_type} has not been probed yet: running a quick probe first (about 15 s)")
    phase(on_event, "probing this machine")
    return probe_device(quick=True, device=device_type, on_progress=progress(on_event), save=saved is None)


def _predicted_again(
    header: Header, records: tuple[Record, ...], path: Path | None, on_event: OnEvent | None
) -> tuple[Record, ...]:
    from advisor.experiments.validation.predict import repredict
    from advisor.hardware.host import inspect_host

    calibration = _calibration(header, path, on_event)
    if header.device is not None and calibration is not None and calibration.device_id != header.device.id:
        raise InputError(
            f"--calibration must be of the records' device {header.device.id}, but it is of {calibration.device_id}",
            fix="name the calibration of that device",
        )
    phase(on_event, f"predicting {len(records)} cases again")
    workers, report = inspect_host().cores, progress(on_event)
    return repredict(header, records, workers=workers, calibration=calibration, on_case=report)


def _calibration(header: Header, path: Path | None, on_event: OnEvent | None) -> Calibration | None:
    """The named calibration, else this machine's own of the records' device if its versions are those in use."""
    from advisor.calibration.selection import calibrated_now, calibration_in

    if path is not None:
        return calibration_in(path, header.device_id)
    if header.device is None:
        return None
    try:
        found = calibrated_now(header.device)
    except DeviceError as failure:
        note(on_event, f"the calibration of {header.device.id} is not used: {failure.message}")
        return None
    if found is None:
        note(on_event, f"predicted from the device's rates alone: {header.device.id} has no calibration here")
    return found
