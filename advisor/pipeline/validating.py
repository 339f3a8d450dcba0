"""Job: run a grid for real on the device at hand, and compare it with what was predicted beforehand."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from advisor.core.device import DeviceType
from advisor.core.errors import InputError
from advisor.core.store import ensure_writable_dir, user_data_dir
from advisor.core.units import format_bytes, format_duration
from advisor.pipeline.events import OnEvent, note, phase, progress
from advisor.pipeline.validation_device import device_type_of, environment_hash, setting_of

if TYPE_CHECKING:
    from advisor.experiments.validation.case import Case
    from advisor.experiments.validation.comparison import AcceptanceThreshold, GridComparison
    from advisor.experiments.validation.journal import Journal
    from advisor.experiments.validation.prediction import GridDevice, Prepared
    from advisor.experiments.validation.record import GridName, Header, Kind, Record
    from advisor.experiments.validation.running import Stopped
    from advisor.experiments.validation.time_bars import TimeBar
    from advisor.experiments.validation.times import TimeComparison

PREDICTION_SHARE = 0.5
"""Predictions take at most this share of a time limit, so that something is measured too."""


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
    comparison: GridComparison | None
    times: TimeComparison | None
    remaining: int
    stopped: Stopped

    @property
    def bars(self) -> tuple[AcceptanceThreshold | TimeBar, ...]:
        """All bounds, of memory and of time."""
        memory = self.comparison.bars if self.comparison is not None else ()
        return (*memory, *(self.times.bars if self.times is not None else ()))


def validate(
    kind: Kind,
    *,
    grid: GridName | None = None,
    device: DeviceType | Literal["auto"] = "auto",
    shard: tuple[int, int] = (1, 1),
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
        time_limit_s: No case is begun that would end later; another call goes on.
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
    from advisor.experiments.validation.case import case_key
    from advisor.experiments.validation.grids import shard_of
    from advisor.experiments.validation.journal import Journal
    from advisor.experiments.validation.time_grids import grid_cases

    started_s = time.monotonic()
    check_shard(shard)
    folder = output if output is not None else user_data_dir("validation")
    ensure_writable_dir(folder)
    device_type, chosen = device_type_of(grid, device)
    cases = tuple(cases) if cases is not None else grid_cases(chosen, device_type, kind, repeats)
    setting, header = setting_of(kind, chosen, device_type, on_event)
    path = folder / f"{kind}-{chosen}-{header.device_id}-{environment_hash(header)}.jsonl"
    with Journal(path, header, resume=resume) as journal:
        wanted = [case for case in shard_of(cases, shard) if _is_open(journal.records.get(case_key(case)))]
        note(on_event, f"{len(wanted)} of {len(shard_of(cases, shard))} cases to run; records go to {path}")
        stopped = _run(wanted, setting, journal, started_s, time_limit_s, on_event)
        records = tuple(journal.records[key] for case in cases if (key := case_key(case)) in journal.records)
        remaining = sum(case_key(case) not in journal.records for case in shard_of(cases, shard))
        return compared(journal.header, path, records, remaining, stopped)


def _is_open(record: Record | None) -> bool:
    """Whether a case is to be run: it was not yet, or it failed for a reason that may be gone."""
    return record is None or record.outcome == "failed"


def compared(
    header: Header,
    path: Path,
    records: tuple[Record, ...],
    remaining: int = 0,
    stopped: Stopped = "",
    *,
    shown: Kind | None = None,
) -> Validation:
    """Records with the comparisons of ``shown``, by default those that their kind has."""
    from advisor.experiments.validation.comparison import compare
    from advisor.experiments.validation.times import compare_times

    shown = shown or header.kind
    memory = compare(records, header.device_type) if shown != "time" else None
    times = compare_times(records, header.device_type, header.device) if shown != "memory" else None
    return Validation(header, path, records, memory, times, remaining, stopped)


def check_shard(shard: tuple[int, int]) -> None:
    """Refuse a shard that does not exist.

    Raises:
        InputError: not ``1 <= i <= n``.
    """
    index, count = shard
    if not 1 <= index <= count:
        raise InputError(f"a shard i/n must have 1 <= i <= n, but got {index}/{count}", fix="write for example 1/2")


def _run(
    cases: list[Case],
    setting: GridDevice,
    journal: Journal,
    started_s: float,
    time_limit_s: float | None,
    on_event: OnEvent | None,
) -> Stopped:
    from advisor.experiments.validation.running import CaseDurations, run_cases

    deadline_s = None if time_limit_s is None else started_s + time_limit_s
    try:
        prepared = _prepared(cases, setting, started_s, time_limit_s, on_event)
        pace = CaseDurations(setting.device.type, journal.records.values(), journal.header.kind)
        expected_s = sum(pace.expected_s(case.record) for case in prepared if case.runnable)
        if expected_s:
            note(on_event, f"they will take about {format_duration(expected_s)}")
        phase(on_event, f"running {len(prepared)} cases on {setting.device.name}")
        report, done = progress(on_event), [0]

        def tell(record: Record) -> None:
            done[0] += 1
            report(record.label, done[0] / len(prepared))
            note(on_event, f"[{done[0]}/{len(prepared)}] {record.label}: {_in_words(record)}")

        stopped = run_cases(prepared, journal, setting.device.type, deadline_s=deadline_s, on_case=tell)
    except KeyboardInterrupt:
        return "interrupted"
    return stopped if stopped or len(prepared) == len(cases) else "time limit"


def _prepared(
    cases: list[Case], setting: GridDevice, started_s: float, time_limit_s: float | None, on_event: OnEvent | None
) -> list[Prepared]:
    """Predictions of as many cases as the time allows, in the order of the grid."""
    from advisor.experiments.validation.case import case_key
    from advisor.experiments.validation.predict_cases import forecasts
    from advisor.hardware.host import inspect_host

    deadline_s = None if time_limit_s is None else started_s + PREDICTION_SHARE * time_limit_s
    phase(on_event, f"predicting {len(cases)} cases")
    report, found = progress(on_event), {}
    for case, prepared in forecasts(cases, setting, workers=inspect_host().cores, deadline_s=deadline_s):
        found[case_key(case)] = prepared
        report(case.label, len(found) / len(cases))
    return [found[key] for case in cases if (key := case_key(case)) in found]


def _in_words(record: Record) -> str:
    from advisor.experiments.validation.comparison import relative_error
    from advisor.experiments.validation.record import QUANTITIES

    if record.measured is None:
        return " ".join([record.outcome.replace("_", " "), f"({record.reason})" if record.reason else ""]).strip()
    parts = []
    if record.step_s is not None and record.predicted is not None:
        off = record.predicted.step_s / record.step_s - 1
        parts.append(f"step {format_duration(record.step_s)} ({off:+.1%})")
    for quantity in QUANTITIES:
        error = relative_error(record, quantity)
        if error is not None:
            measured = format_bytes(getattr(record.measured, quantity))
            parts.append(f"{quantity.removesuffix('_bytes')} {measured} ({error:+.2%})")
    return ", ".join(parts)
