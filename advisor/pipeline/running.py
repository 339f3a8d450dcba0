"""Job: the final training run of a plan, verified against what was promised."""

from __future__ import annotations

import datetime
from pathlib import Path

from advisor.core.errors import InterruptedByUser, RunFailed
from advisor.core.plan import Plan, load_plan
from advisor.core.run import Measurement, RunRecord
from advisor.core.serialization import to_json
from advisor.core.store import write_text_atomically
from advisor.core.units import format_bytes
from advisor.pipeline.environment import check_runs_here, versions
from advisor.pipeline.events import OnEvent
from advisor.pipeline.inputs import check_length, check_strategy
from advisor.pipeline.outputs import PLAN_FILE, RECORD_FILE, prepare_run_dir
from advisor.reporting.verification import verify

ADAM_STATES = 2
"""AdamW keeps two moments per trained parameter; a checkpoint holds them beside the parameter itself."""
CHECKPOINTS_ON_DISK = 2
"""The last valid checkpoint stays until the next one is complete."""


def run(
    plan: Plan | Path | str,
    output_dir: Path | str,
    *,
    resume: bool = False,
    any_device: bool = False,
    on_event: OnEvent | None = None,
) -> RunRecord:
    """Train a plan, evaluate it on held-out rows, save the result, and verify every promise.

    ``output_dir`` receives the plan, checkpoints, the trained adapter or model, and ``record.json``.

    Args:
        plan: A plan, or the path of a ``plan.json``.
        output_dir: A new or empty folder; with ``resume``, the folder of the interrupted run.
        resume: Continue from the last valid checkpoint.
        any_device: Run here although the plan was made for another device; its promises are then not for here.
        on_event: Told about phases, steps and losses (:mod:`advisor.pipeline.events`).

    Raises:
        PlanError: the plan is damaged, newer than this version, or inconsistent.
        OutputError: the folder is occupied, read-only or too full.
        RunFailed: out of memory or crashed; ``record.json`` says how.
        InterruptedByUser: Ctrl-C; a checkpoint is kept and the message says how to resume.
    """
    from advisor.strategies import get_strategy

    source = plan
    plan = plan if isinstance(plan, Plan) else load_plan(Path(plan))
    directory = Path(output_dir)
    check_strategy(get_strategy(plan.strategy.method), plan.strategy, plan.model)
    check_length(plan.model, plan.execution.max_seq_length)
    device_id = check_runs_here(plan, any_device=any_device)
    prepare_run_dir(plan, directory, resume=resume, needed_bytes=_needed_bytes(plan))
    plan.save(directory / PLAN_FILE)

    from advisor.measurement import measure_run

    started_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    measurement = measure_run(plan, directory, resume=resume, on_event=on_event)
    if measurement.outcome == "interrupted":
        shown = source if not isinstance(source, Plan) else directory / PLAN_FILE
        raise InterruptedByUser(
            f"the run was stopped; what was trained so far is kept in {directory}",
            fix=f"`advisor run {shown} --output {directory} --resume` continues it",
        )
    record = RunRecord(
        plan=plan,
        measurement=measurement,
        verifications=verify(plan, measurement, resumed=resume),
        device_id=device_id,
        versions=versions(),
        started_at=started_at,
        output_dir=str(directory),
    )
    if measurement.outcome == "completed":
        write_text_atomically(directory / RECORD_FILE, to_json(record))
        return record
    write_text_atomically(directory / f"record-{measurement.outcome}.json", to_json(record))
    raise _failure(plan, measurement, directory)


def _needed_bytes(plan: Plan) -> int:
    """Room for the checkpoints and the result, all in the trained parameters' full precision (4 bytes).

    A checkpoint of a wrapped model holds what is trained and its optimizer states; a whole model is saved entire.
    """
    trained = plan.predicted.trainable_parameters if plan.predicted is not None else 0
    whole = plan.strategy.method in ("full", "partial", "head")
    saved = plan.model.total_parameters if whole else trained
    return 4 * (CHECKPOINTS_ON_DISK * (saved + ADAM_STATES * trained) + saved)


def _failure(plan: Plan, measurement: Measurement, directory: Path) -> RunFailed:
    record = directory / f"record-{measurement.outcome}.json"
    if measurement.outcome == "out_of_memory":
        peak = f" after {format_bytes(measurement.device_peak_bytes)}" if measurement.device_peak_bytes else ""
        return RunFailed(
            f"the run must fit the device's memory, but it ran out{peak}: {measurement.reason}",
            fix=f"plan again with a smaller --memory; {record} has what was measured",
        )
    if measurement.outcome == "over_time":
        fix = "plan again with a longer --time, or with fewer rows"
        return RunFailed(f"the run must end within its time, but did not: {measurement.reason}", fix=fix)
    return RunFailed(
        f"{plan.strategy.method} on {plan.model.source} failed: {measurement.reason}",
        fix=f"{record} has what was measured; the last valid checkpoint is kept for --resume",
    )
