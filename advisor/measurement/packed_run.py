"""A measured pack: several plans trained in one pass over one frozen model, in a process of their own."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

from advisor.core.events import OnMemberEvent, RawListener
from advisor.core.pack import PackMembership
from advisor.core.plan import Plan
from advisor.core.run import SAVE_EVERY_S, Measurement
from advisor.hardware.energy import EnergyMeter
from advisor.hardware.load import LoadMeter
from advisor.measurement.isolation import Result, isolated
from advisor.measurement.run import (
    full_disk,
    measurement_of,
    naming_full_disks,
    process_limit_s,
    with_process_figures,
)
from advisor.training.packing import check_pack, train_pack
from advisor.training.run_folder import RunFolder
from advisor.training.switches import backend_of_plan


def measure_pack(
    plans: Sequence[Plan],
    output_dirs: Sequence[Path],
    *,
    resume: bool = False,
    on_event: OnMemberEvent | None = None,
    time_limit_s: float | None = None,
    save_every_s: float = SAVE_EVERY_S,
    grace_s: float | None = None,
) -> list[Measurement]:
    """Run several plans as one pack and measure it; every member has a folder as a run of its own has.

    A process that dies ends all members that had not come to an end, with one outcome.

    Args:
        plans: What to run; ``pack_problem`` says which go together.
        output_dirs: One for each plan.
        resume: Continue earlier runs of the plans, packed or not; finished ones are not run again.
        on_event: Receives every member's events.
        time_limit_s: Of the training process; the checkpoints of what was done are kept.
        save_every_s: About how often each member writes a checkpoint.
        grace_s: As in ``measure_run``.

    Returns:
        The figures of each member. Times, memory and energy are those of the whole pack (``Measurement.pack``).

    Raises:
        InputError: the plans cannot be packed or run here.
        OutputError: a folder is occupied, read-only or full.
    """
    check_pack(plans)
    folders, began_s = [RunFolder(Path(output_dir)) for output_dir in output_dirs], time.perf_counter()
    with contextlib.ExitStack() as locks:
        for folder, plan in zip(folders, plans, strict=True):
            locks.enter_context(folder.locked())
            folder.claim(plan, resume=resume)
        finished = [folder.finished() for folder in folders]
        if all(finished):
            return [measurement for measurement in finished if measurement is not None]
        result = isolated(
            run_pack_in_this_process,
            list(plans),
            [folder.path for folder in folders],
            time_limit_s=time_limit_s,
            save_every_s=save_every_s,
            on_event=_member_listener(on_event),
            timeout_s=process_limit_s(time_limit_s, grace_s),
            log_path=folders[0].log,
        )
        wall_s = time.perf_counter() - began_s
        measurements = []
        for position, folder in enumerate(folders):
            measurement = finished[position]
            if measurement is None:
                measurement = _of_member(result, folder, folders[0].log, PackMembership(len(plans), position), wall_s)
                folder.keep(measurement)
            measurements.append(measurement)
    return measurements


def _member_listener(on_event: OnMemberEvent | None) -> RawListener:
    if on_event is None:
        return lambda message: None
    return lambda message: on_event(*message)


def _of_member(
    result: Result[list[Measurement]], folder: RunFolder, log: Path, membership: PackMembership, wall_s: float
) -> Measurement:
    """A member's figures: what the process answered, or what the member had on disk when it died, or how it died."""
    if result.value is not None:
        measurement = result.value[membership.position]
    else:
        measurement = folder.finished() or measurement_of(result, log)
    return dataclasses.replace(measurement, pack=measurement.pack or membership, wall_s=wall_s)


def run_pack_in_this_process(
    plans: Sequence[Plan],
    output_dirs: Sequence[Path],
    *,
    on_event: RawListener,
    time_limit_s: float | None = None,
    save_every_s: float = SAVE_EVERY_S,
) -> list[Measurement]:
    """Train the pack here and add this process's memory figures and the device's energy; meant for a process that does
    nothing else.

    Args:
        plans: As in ``measure_pack``, like all others.
        output_dirs: One for each plan; earlier runs in them are continued.
        on_event: Receives pairs of a member's position and its event.
        time_limit_s: No step is begun after this long.
        save_every_s: About how often each member writes a checkpoint.

    Raises:
        OutputError: the disk is full.
    """
    runtime = backend_of_plan(plans[0]).runtime
    runtime.reset_peaks()
    with (
        naming_full_disks(output_dirs[0]),
        LoadMeter() as others,
        runtime.memory_watch() as watch,
        EnergyMeter(runtime.energy_counter) as energy,
    ):
        measurements = train_pack(
            plans,
            output_dirs,
            resume=True,
            on_event=lambda position, event: on_event((position, event)),
            time_limit_s=time_limit_s,
            save_every_s=save_every_s,
        )
    for measurement in measurements:  # members that a full disk ended are no defects of theirs
        if measurement.outcome == "failed" and (problem := full_disk(measurement.reason, output_dirs[0])):
            raise problem
    return [with_process_figures(measurement, runtime, others, watch, energy) for measurement in measurements]
