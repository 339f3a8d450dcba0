"""Job: the final training run of a plan, verified against what was promised."""

from __future__ import annotations

import datetime
from pathlib import Path

from advisor.core.benchmark import BenchmarkSettings
from advisor.core.errors import InterruptedByUser, ModelError, OutputError, PlanError, RunFailed
from advisor.core.events import Event
from advisor.core.plan import Plan, load_plan
from advisor.core.run import Measurement, RunRecord, load_record
from advisor.core.serialization import to_json
from advisor.core.store import write_text_atomically
from advisor.hardware.versions import installed_versions
from advisor.pipeline.environment import check_runs_here
from advisor.pipeline.events import OnEvent, ignore
from advisor.pipeline.inputs import check_length, check_strategy
from advisor.pipeline.outputs import PLAN_FILE, RECORD_FILE
from advisor.pipeline.unchanged import check_unchanged
from advisor.reporting.verification import verify


def run(
    plan: Plan | Path | str,
    output_dir: Path | str,
    *,
    resume: bool = False,
    any_device: bool = False,
    accept_changes: bool = False,
    benchmark: bool = True,
    general_text: str | None = None,
    on_event: OnEvent | None = None,
) -> RunRecord:
    """Train a plan, evaluate it on held-out rows, save the result, and verify every promise.

    ``output_dir`` receives the plan, checkpoints, the trained adapter or model in ``model/``, and ``record.json``.

    Args:
        plan: A plan, or the path of a ``plan.json``.
        output_dir: A new or empty folder; with ``resume``, the folder of the interrupted run.
        resume: Continue from the last valid checkpoint; a finished run is answered from its record.
        any_device: Run here although the plan was made for another device; its promises are then not for here.
        accept_changes: Train although the model's files or the data have changed since the plan was made.
        benchmark: Measure the whole benchmark core: intervals and predictions by item, inference (for at most a tenth
            of the run, from 1 to 30 s), drift. Without it the training, its memory and its metrics are measured.
        general_text: A file or data set for the perplexity before and after training, of tasks that predict the next
            token.
        on_event: Told about phases, steps and losses (:mod:`advisor.core.events`).

    Raises:
        PlanError: the plan is damaged, newer than this version, or inconsistent.
        DataError: its task is predicted only.
        InputError: model or data are not those that the plan was made for.
        OutputError: the folder is occupied, read-only or too full.
        RunFailed: diverged, out of memory or crashed; ``record.json`` says how.
        InterruptedByUser: Ctrl-C; a checkpoint is kept and the message says how to resume.
    """
    directory = Path(output_dir)
    shown = directory / PLAN_FILE if isinstance(plan, Plan) else plan
    plan = plan if isinstance(plan, Plan) else load_plan(Path(plan))
    _require_trainable(plan)
    device_id = check_runs_here(plan, any_device=any_device)

    from advisor.measurement.forgetting import check_general_text
    from advisor.measurement.run import measure_run
    from advisor.training.run_folder import RunFolder

    settings = BenchmarkSettings(general_text=general_text) if benchmark or general_text is not None else None
    if general_text is not None:
        check_general_text(plan, general_text)
    if RunFolder(directory).finished() is None:
        check_unchanged(plan, accept_changes=accept_changes, on_event=on_event)
    listener = _ResumeListener(on_event or ignore)
    started_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    resuming = f"`advisor run {shown} --output {directory} --resume` continues it"
    try:
        measurement = measure_run(plan, directory, resume=resume, benchmark=settings, on_event=listener)
    except (KeyboardInterrupt, InterruptedByUser):
        if not (directory / PLAN_FILE).exists():
            raise
        raise InterruptedByUser("the run was stopped before its training began", fix=resuming) from None
    if measurement.outcome == "interrupted":
        raise InterruptedByUser(f"the run was stopped; what was trained so far is kept in {directory}", fix=resuming)
    if listener.trained_nothing and (kept := _kept_record(directory / RECORD_FILE, plan)) is not None:
        return kept
    record = RunRecord(
        plan=plan,
        measurement=measurement,
        verifications=verify(plan, measurement, resumed=listener.resumed_from_step > 0),
        device_id=device_id,
        versions=installed_versions(),
        started_at=started_at,
        output_dir=str(directory),
        resumed_from_step=listener.resumed_from_step,
    )
    write_text_atomically(directory / RECORD_FILE, to_json(record))
    if measurement.outcome != "completed":
        raise _failure(plan, measurement, directory)
    if measurement.energy_j is not None and not listener.resumed_from_step:
        from advisor.hardware.energy import remember_power

        remember_power(device_id, measurement.energy_j, measurement.total_s)
    return record


def _require_trainable(plan: Plan) -> None:
    """Refuse a plan that could not be trained on any device.

    Raises:
        DataError: its task is predicted only.
        PlanError: its rows are none that the task is trained on.
        InputError: method, model and length do not go together, or a package that trains the task is missing.
        ModelError: it was made from a bare configuration: there is nothing to fine-tune.
    """
    from advisor.strategies import get_strategy
    from advisor.training.data.formats import FORMATS
    from advisor.training.data.rules import data_rules
    from advisor.training.tasks import get_task

    rules = data_rules(plan.model.task)
    row_format = FORMATS.get(plan.data.format) if plan.data.format else None
    if row_format is not None and row_format.kind not in rules.row_kinds:
        raise PlanError(
            f"the plan's task must be trained on its rows, but {plan.model.task} is not trained on {row_format.title}",
            fix=f"make a plan for the task: advisor recommend {plan.model.source} --data {plan.data.source} --task"
            f" {plan.model.task}",
        )
    get_task(plan.model.task).require_trainer()
    check_strategy(get_strategy(plan.strategy.method), plan.strategy, plan.model)
    check_length(plan.model, plan.execution.max_seq_length)
    if not plan.model.has_weights:
        raise ModelError(
            f"a run fine-tunes weights, but {plan.model.source} has none",
            fix="make the plan again with the model's folder or hub id",
        )


class _ResumeListener:
    """Passes events on and remembers whether anything was trained, and from which step."""

    def __init__(self, on_event: OnEvent) -> None:
        self._on_event = on_event
        self.trained_nothing = True
        self.resumed_from_step = 0

    def __call__(self, event: Event) -> None:
        if event["kind"] == "resumed":
            self.resumed_from_step = event["step"]
        if event["kind"] in ("phase", "step"):
            self.trained_nothing = False
        self._on_event(event)


def _kept_record(path: Path, plan: Plan) -> RunRecord | None:
    """The record of a run that had completed before; made anew when only it is missing."""
    if not path.is_file():
        return None
    record = load_record(path, error=OutputError)
    return record if record.plan == plan and record.measurement.outcome == "completed" else None


def _failure(plan: Plan, measurement: Measurement, directory: Path) -> RunFailed:
    record = directory / RECORD_FILE
    if measurement.outcome == "diverged":
        return RunFailed(
            f"training must converge, but it diverged: {measurement.reason}; there is no result",
            fix=f"lower strategy.learning_rate in the plan, which is {plan.strategy.learning_rate:g}, and run it into "
            f"another --output; {record} has the losses",
        )
    rule = {
        "out_of_memory": "the run must fit the device's memory, but it ran out",
        "over_time": "the run must end within its time, but did not",
    }.get(measurement.outcome, "the run did not finish")
    return RunFailed(
        f"{rule}: {measurement.reason}",
        fix=f"{record} has what was measured; --resume continues from the last checkpoint",
    )
