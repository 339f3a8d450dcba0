"""Job: run a grid for real on the device at hand, and compare it with what was predicted beforehand."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from advisor.core.device import DeviceProfile, DeviceType
from advisor.core.errors import DeviceError, InputError, RunFailed
from advisor.core.store import ensure_writable_dir, user_data_dir
from advisor.core.units import format_bytes
from advisor.pipeline.environment import versions
from advisor.pipeline.events import OnEvent, note, phase, progress
from advisor.pipeline.predicting import cost_model_for

if TYPE_CHECKING:
    from advisor.costmodel.validation.case import Case
    from advisor.costmodel.validation.comparison import Comparison
    from advisor.costmodel.validation.journal import Journal
    from advisor.costmodel.validation.prediction import Prepared, Setting
    from advisor.costmodel.validation.record import GridName, Header, Record
    from advisor.costmodel.validation.running import Stopped

RECORDED_VERSIONS = ("python", "torch", "transformers", "peft", "accelerate", "bitsandbytes")
"""What decides how much a step allocates; other versions of these go into a file of their own."""
PREDICTION_SHARE = 0.5
"""Predictions take at most this share of a time limit, so that something is measured too."""


@dataclass(frozen=True)
class Validation:
    """What a validation found so far.

    Attributes:
        header: Device, driver and versions.
        path: The file of records.
        records: Of the grid's cases, those of other shards and earlier calls included.
        comparison: Their errors.
        remaining: Cases of this call's shard that are still to be run.
        stopped: Why the call ended before them, if it did.
    """

    header: Header
    path: Path
    records: tuple[Record, ...]
    comparison: Comparison
    remaining: int
    stopped: Stopped


def validate_memory(
    *,
    grid: GridName | None = None,
    device: DeviceType | Literal["auto"] = "auto",
    shard: tuple[int, int] = (1, 1),
    time_limit_s: float | None = None,
    output: Path | None = None,
    resume: bool = True,
    cases: Sequence[Case] | None = None,
    on_event: OnEvent | None = None,
) -> Validation:
    """Run a grid's cases, each in a process of its own, and compare memory with its prediction.

    Args:
        grid: ``"cpu"``, ``"cuda"`` or ``"quick"``; that of the device at hand when ``None``.
        device: Where to run it; ``"auto"`` is the grid's own, and for ``quick`` the GPU if there is one.
        shard: ``(i, n)``: every n-th case from the i-th on.
        time_limit_s: No case is begun that would end later; another call goes on.
        output: Folder of the records; the user's data directory when ``None``.
        resume: Keep what was measured before with the same device and versions; only cases that failed are run again.
        cases: Instead of the grid's own.
        on_event: Told what is being done (:mod:`advisor.pipeline.events`).

    Raises:
        InputError: an unknown grid or an impossible shard.
        DeviceError: the grid needs a GPU and there is none.
        OutputError: the folder cannot be written, or the disk is full; what was measured is kept.
    """
    from advisor.costmodel.validation.case import case_key
    from advisor.costmodel.validation.comparison import compare
    from advisor.costmodel.validation.grids import grid_cases, shard_of
    from advisor.costmodel.validation.journal import Journal

    started_s = time.monotonic()
    check_shard(shard)
    folder = output if output is not None else user_data_dir("validation")
    ensure_writable_dir(folder)
    device_type, chosen = _device_type(grid, device)
    setting, header = _setting(chosen, device_type, on_event)
    cases = tuple(cases) if cases is not None else grid_cases(chosen, device_type)
    path = folder / f"memory-{chosen}-{header.device_id}-{_environment_hash(header)}.jsonl"
    with Journal(path, header, resume=resume) as journal:
        wanted = [case for case in shard_of(cases, shard) if _is_open(journal.records.get(case_key(case)))]
        note(on_event, f"{len(wanted)} of {len(shard_of(cases, shard))} cases to run; records go to {path}")
        stopped = _run(wanted, setting, journal, started_s, time_limit_s, on_event)
        records = tuple(journal.records[key] for case in cases if (key := case_key(case)) in journal.records)
        remaining = sum(case_key(case) not in journal.records for case in shard_of(cases, shard))
        return Validation(journal.header, path, records, compare(records, device_type), remaining, stopped)


def _is_open(record: Record | None) -> bool:
    """Whether a case is to be run: it was not yet, or it failed for a reason that may be gone."""
    return record is None or record.outcome == "failed"


def recorded_validation(path: Path, *, predict_again: bool = False, on_event: OnEvent | None = None) -> Validation:
    """The comparison of a file of records, without running anything; it needs none of the devices.

    Args:
        path: Of the records.
        predict_again: Compare what was measured with what this version predicts instead of what was predicted then.
        on_event: Told what is being done.

    Raises:
        InputError: there is no such file, it is damaged, or it does not say what device it is of.
    """
    from advisor.costmodel.validation.again import predicted_again
    from advisor.costmodel.validation.comparison import compare
    from advisor.costmodel.validation.journal import parse_journal
    from advisor.hardware.host import inspect_host

    if not path.is_file():
        raise InputError(f"--records must be a file of records, but there is none at {path}", fix="check the path")
    header, found = parse_journal(path.read_text(encoding="utf-8", errors="replace"), str(path))
    if header is None:
        raise InputError(f"--records must be a file of records, but {path} is empty", fix="check the path")
    records = list(found.values())
    if predict_again:
        phase(on_event, f"predicting {len(records)} cases again")
        report = progress(on_event)
        records = predicted_again(
            header, records, workers=inspect_host().cores, on_case=lambda label, share: report(label, share)
        )
    return Validation(header, path, tuple(records), compare(records, header.device_type), 0, "")


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
    setting: Setting,
    journal: Journal,
    started_s: float,
    time_limit_s: float | None,
    on_event: OnEvent | None,
) -> Stopped:
    from advisor.costmodel.validation.running import run_cases

    deadline_s = None if time_limit_s is None else started_s + time_limit_s
    try:
        prepared = _prepared(cases, setting, started_s, time_limit_s, on_event)
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
    cases: list[Case], setting: Setting, started_s: float, time_limit_s: float | None, on_event: OnEvent | None
) -> list[Prepared]:
    """Predictions of as many cases as the time allows, in the order of the grid."""
    from advisor.costmodel.validation.case import case_key
    from advisor.costmodel.validation.forecasts import forecasts
    from advisor.hardware.host import inspect_host

    deadline_s = None if time_limit_s is None else started_s + PREDICTION_SHARE * time_limit_s
    phase(on_event, f"predicting {len(cases)} cases")
    report, found = progress(on_event), {}
    for case, prepared in forecasts(cases, setting, workers=inspect_host().cores, deadline_s=deadline_s):
        found[case_key(case)] = prepared
        report(case.label, len(found) / len(cases))
    return [found[key] for case in cases if (key := case_key(case)) in found]


def _in_words(record: Record) -> str:
    from advisor.costmodel.validation.comparison import relative_error
    from advisor.costmodel.validation.record import QUANTITIES

    if record.measured is None:
        return " ".join([record.outcome.replace("_", " "), f"({record.reason})" if record.reason else ""]).strip()
    parts = []
    for quantity in QUANTITIES:
        error = relative_error(record, quantity)
        if error is not None:
            measured = format_bytes(getattr(record.measured, quantity))
            parts.append(f"{quantity.removesuffix('_bytes')} {measured} ({error:+.2%})")
    return ", ".join(parts)


def _device_type(grid: GridName | None, device: str) -> tuple[DeviceType, GridName]:
    """Where the grid runs, and which grid when none was named.

    Raises:
        InputError: an unknown grid, or one that belongs to the other kind of device.
        DeviceError: no GPU here.
    """
    from advisor.costmodel.validation.grids import GRIDS

    if grid is not None and grid not in GRIDS:
        raise InputError(f"the grid must be one of {', '.join(GRIDS)}, but got {grid!r}")
    own = grid if grid in ("cpu", "cuda") else device
    if device not in ("auto", own):
        raise InputError(f"the grid {grid} must run on {grid}, but got --device {device}", fix=f"use --device {grid}")
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


def _setting(grid: GridName, device_type: DeviceType, on_event: OnEvent | None) -> tuple[Setting, Header]:
    from advisor.costmodel.validation.prediction import Setting
    from advisor.costmodel.validation.record import Header

    device = _profile(device_type, on_event)
    capacity_bytes = device.memory_bytes
    if device_type == "cuda":
        device, capacity_bytes = _at_hand(device)
    found = versions()
    setting = Setting(device, cost_model_for(device, on_event).calibration, capacity_bytes)
    header = Header(
        kind="memory",
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


def _environment_hash(header: Header) -> str:
    """What must be the same for records to stand in one file."""
    content = json.dumps([header.driver, header.memory_bytes, header.versions], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:8]
