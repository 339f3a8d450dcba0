"""Job: a published comparison on this machine, with a verdict on each of its claims."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advisor.core.device import DeviceProfile
from advisor.core.errors import AdvisorError, InputError, InterruptedByUser, RunFailed
from advisor.core.events import OnEvent
from advisor.core.plan import Plan
from advisor.core.run import RunRecord, load_record
from advisor.core.serialization import from_dict, read_json, to_dict, to_json
from advisor.core.store import ensure_writable_dir, user_data_dir, write_text_atomically
from advisor.core.units import counted, format_duration
from advisor.hardware.versions import installed_versions
from advisor.pipeline.comparing import run_predictions
from advisor.pipeline.environment import this_machine
from advisor.pipeline.events import note, phase, progress
from advisor.pipeline.inputs import DataSource, Inputs, ModelSource, load_inputs
from advisor.pipeline.outputs import RECORD_FILE
from advisor.pipeline.predicting import configure, configured, predict_configuration
from advisor.pipeline.running import run as run_plan
from advisor.pipeline.suite_inputs import SuiteInputs

if TYPE_CHECKING:
    from advisor.experiments.grid import Cell, CellResult, Stopped
    from advisor.experiments.suites.definition import SuiteCell, SuiteDefinition, SuiteScale
    from advisor.experiments.suites.results import SuiteReport, SuiteRun

REPORT_FILE, RECORDS_FILE, MARKDOWN_FILE = "report.json", "records.jsonl", "report.md"
FIRST_SEED = 42
OUTSIDE_S = 25.0
"""Of a run outside of its own clock (two processes that import libraries, and the profiled step), about; for the
predicted length of a suite only."""

Train = Callable[..., RunRecord]
"""Trains a plan into a folder, as :func:`advisor.pipeline.running.run`."""


@dataclass(frozen=True)
class SuiteTraining:
    """One training of one cell: what runs.

    Attributes:
        cell: Its id.
        plan: With its seed and prediction.
        folder: Of the run, relative to the suite's.
    """

    cell: str
    plan: Plan
    folder: str


def bench_suite(
    suite: str | SuiteDefinition,
    *,
    model: Mapping[str, str] | str | None = None,
    data: Mapping[str, DataSource] | DataSource | None = None,
    scale: str = "small",
    seeds: int | None = None,
    output: Path | None = None,
    device: str = "a100-sxm4-80gb",
    num_threads: int | None = None,
    time_limit_s: float | None = None,
    resume: bool = True,
    only_predict: bool = False,
    train: Train = run_plan,
    on_event: OnEvent | None = None,
) -> SuiteReport:
    """Train the cells of a suite that are not recorded yet, and judge its claims.

    Args:
        suite: Registered name, or a definition.
        model: One model for all cells, or by the suite's own keys; otherwise the study's or its stand-in.
        data: The same for data.
        scale: How much of the suite.
        seeds: Trainings per cell; as the scale says when ``None``.
        output: Folder of the records; in the user's data directory when ``None``.
        device: That the published backbones are predicted for.
        num_threads: Of the trainings on a CPU; as planned when ``None``.
        time_limit_s: No training begins that would end later; one always does.
        resume: Keep what is recorded.
        only_predict: Train nothing; the published backbones are predicted, and the claims about their resources judged.
        train: Trains a plan.
        on_event: Receives the job's events; the predicted length comes before the first training.

    Raises:
        InputError: anything about the inputs that cannot be used.
    """
    from advisor.experiments.grid import run_cells
    from advisor.experiments.store import GridHeader, RecordStore
    from advisor.experiments.suites.definition import SUITES
    from advisor.experiments.suites.results import FORMAT

    definition = SUITES.get(suite) if isinstance(suite, str) else suite
    chosen = definition.scale(scale)
    rounds = chosen.seeds if seeds is None else seeds
    folder = output if output is not None else user_data_dir("suites", f"{definition.name}-{scale}")
    ensure_writable_dir(folder)
    inputs = SuiteInputs(definition, chosen, model, data, folder)
    here = this_machine(on_event)
    plans = {} if only_predict else _plans(definition, chosen, inputs, here, num_threads, on_event)
    cells = _grid(plans, rounds)
    header = GridHeader(definition.name, here.id, installed_versions(), datetime.now(UTC).isoformat(timespec="seconds"))
    stopped: Stopped = ""
    failures: list[str] = []
    with RecordStore(folder / RECORDS_FILE, header, FORMAT, resume=resume) as store:
        left = [cell for cell in cells if not store.is_done(cell.key)]
        length_s = sum(cell.expected_s or 0.0 for cell in cells)
        left_s = sum(cell.expected_s or 0.0 for cell in left)
        note(
            on_event,
            f"{counted(len(plans), 'cell')} x {counted(rounds, 'seed')}: {counted(len(left), 'training')} of "
            f"{len(cells)} to run, about {format_duration(left_s)} predicted; records in {folder}",
        )
        show = progress(on_event)

        def tell(event: Any) -> None:
            if event.result is None:
                show(event.cell.label, (event.number - 1) / event.total)
            elif event.result.outcome != "completed":
                failures.append(f"{event.cell.label}: {event.result.outcome.replace('_', ' ')}, {event.result.reason}")

        execute = _execute(folder, train)
        phase(on_event, f"training {counted(len(left), 'run')}")
        stopped = run_cells(cells, execute, store, time_limit_s=time_limit_s, on_event=tell)
        runs = [
            _with_error_shape(dataclasses.replace(value, cell=name), definition, plan, folder)
            for name, plan in plans.items()
            for seed in _seeds(rounds)
            if (value := _recorded(store.records, _key(plan, seed))) is not None
        ]
        measured_s = sum(record.seconds for record in store.records.values())
        remaining = sum(not store.is_done(cell.key) for cell in cells)
    ended = stopped == "interrupted"
    published = _kept(folder) if ended else _predict_published(definition, chosen, folder, device, on_event)
    report = _report(
        definition, scale, inputs, plans, runs, rounds, published, failures,
        device=here.id, published_device=device, folder=folder, predicted_s=length_s, measured_s=measured_s,
        remaining=remaining, stopped=stopped, versions=header.versions,
    )  # fmt: skip
    write_report(report, folder)
    return report


def write_report(report: SuiteReport, folder: Path) -> None:
    """``report.json`` and ``report.md``."""
    from advisor.reporting.suites import suite_markdown

    write_text_atomically(folder / REPORT_FILE, to_json(report))
    write_text_atomically(folder / MARKDOWN_FILE, suite_markdown(report, _definition_of(report)))


def recorded_suite(folder: Path) -> SuiteReport:
    """The report in a suite's folder; nothing is run.

    Raises:
        InputError: there is none.
    """
    from advisor.experiments.suites.results import SuiteReport

    path = folder / REPORT_FILE
    if not path.is_file():
        raise InputError(f"--records must be a folder of a suite, but there is no {path}", fix="run the suite first")
    report = from_dict(SuiteReport, read_json(path, what="the report"), what=str(path))
    return dataclasses.replace(report, folder=str(folder))


def _definition_of(report: SuiteReport) -> SuiteDefinition | None:
    from advisor.experiments.suites.definition import SUITES

    return SUITES.get(report.suite) if report.suite in SUITES else None


# --- plans ------------------------------------------------------------------------------------------------------------


def _plans(
    suite: SuiteDefinition,
    scale: SuiteScale,
    inputs: SuiteInputs,
    here: DeviceProfile,
    num_threads: int | None,
    on_event: OnEvent | None,
) -> dict[str, Plan]:
    """A plan with its prediction for every cell of the scale, by id; each model and data set is looked at once."""
    from advisor.strategies import get_strategy

    plans: dict[str, Plan] = {}
    loaded: dict[tuple[str, str, int | None], Inputs] = {}
    wanted = suite.cells_at(scale)
    show = progress(on_event)
    phase(on_event, f"predicting {counted(len(wanted), 'cell')}")
    for number, cell in enumerate(wanted):
        show(cell.id, number / len(wanted))
        key = (cell.model, cell.data, cell.max_seq_length)
        if key not in loaded:
            source = ModelSource(inputs.model(cell.model), task=suite.data[cell.data].task)
            loaded[key] = load_inputs(source, inputs.data(cell.data, cell))
        model, data, profile = loaded[key].model, loaded[key].data, loaded[key].profile
        configuration = configured(
            model,
            profile,
            get_strategy(cell.method),
            knobs=_knobs(cell, scale),
            execution=_execution(cell, scale, num_threads),
            device=here,
        )
        cost = predict_configuration(configuration)
        plans[cell.id] = Plan(
            model, data, profile, configuration.strategy, configuration.execution,
            here.id, FIRST_SEED, configuration.budget, cost, installed_versions(),
        )  # fmt: skip
    return plans


def _knobs(cell: SuiteCell, scale: SuiteScale) -> dict[str, Any]:
    knobs = dict(cell.knobs)
    if scale.epochs is not None:
        knobs["num_train_epochs"] = scale.epochs
    if "learning_rate" in knobs:
        knobs["learning_rate"] *= scale.learning_rate_times
    elif scale.lr_rel != 1.0:
        knobs["lr_rel"] = scale.lr_rel
    return knobs


def _execution(cell: SuiteCell, scale: SuiteScale, num_threads: int | None) -> dict[str, Any]:
    threads = {} if num_threads is None else {"num_threads": num_threads}
    batch = max(cell.batch_size // scale.batch_divisor, 1)
    # float32 as in the studies: a stand-in that is stored in bfloat16 takes hours on a CPU that emulates it
    return {"micro_batch_size": batch, "eval_batch_size": 32, "dtype": "float32", **threads, **cell.execution}


def _seeds(count: int) -> range:
    return range(FIRST_SEED, FIRST_SEED + count)


def _key(plan: Plan, seed: int) -> str:
    from advisor.experiments.grid import content_key

    what = {"model": plan.model, "data": plan.data, "strategy": plan.strategy, "execution": plan.execution}
    rows = {"rows": plan.data_profile.fingerprint}
    return content_key({**what, **rows, "seed": seed})


def _grid(plans: Mapping[str, Plan], seeds: int) -> list[Cell[SuiteTraining]]:
    """Whole rounds after each other, so that an end at any time leaves comparable cells; equal cells run once."""
    from advisor.experiments.grid import Cell

    cells: dict[str, Cell[SuiteTraining]] = {}
    for seed in _seeds(seeds):
        for name, plan in plans.items():
            key = _key(plan, seed)
            if key in cells:
                continue
            label, folder = f"{name}, seed {seed}", f"runs/{name}-{seed}-{key[:6]}"
            payload = SuiteTraining(name, dataclasses.replace(plan, seed=seed), folder)
            cells[key] = Cell(key, label, payload, _expected_s(plan))
    return list(cells.values())


def _expected_s(plan: Plan) -> float | None:
    time = plan.predicted.time if plan.predicted is not None else None
    return None if time is None else time.total_s + OUTSIDE_S


def _execute(folder: Path, train: Train) -> Callable[[Cell[SuiteTraining], float | None], CellResult[SuiteRun]]:
    """Trains a cell with the job that ``advisor run`` is, which has processes of its own."""
    import time

    from advisor.experiments.grid import CellResult
    from advisor.experiments.suites.results import SuiteRun, figures_of, is_at_chance

    def execute(cell: Cell[SuiteTraining], limit_s: float | None) -> CellResult[SuiteRun]:
        training, began_s = cell.payload, time.monotonic()
        target = folder / training.folder
        predicted = _predicted(training.plan)
        try:
            record = train(training.plan, target, resume=target.exists())
        except InterruptedByUser as failure:
            return CellResult("interrupted", reason=failure.message, error=failure)
        except RunFailed as failure:
            if not _diverged(target):
                return CellResult("refused", None, failure.message, time.monotonic() - began_s, failure)
            value = SuiteRun(training.cell, training.plan.seed, training.folder, diverged=True, predicted=predicted)
            return CellResult("completed", value, failure.message, time.monotonic() - began_s)
        except AdvisorError as failure:
            return CellResult("refused", None, failure.message, time.monotonic() - began_s, failure)
        _forget_weights(target)
        value = SuiteRun(
            training.cell, training.plan.seed, training.folder,
            figures=figures_of(record), predicted=predicted, at_chance=is_at_chance(record),
            load=record.measurement.load,
        )  # fmt: skip
        return CellResult("completed", value, "", time.monotonic() - began_s)

    return execute


def _predicted(plan: Plan) -> dict[str, float]:
    from advisor.experiments.suites.results import predicted_figures

    return predicted_figures(plan.predicted) if plan.predicted is not None else {}


def _diverged(folder: Path) -> bool:
    path = folder / RECORD_FILE
    if not path.is_file():
        return False
    record = load_record(path)
    return record.measurement.outcome == "diverged"


def _forget_weights(folder: Path) -> None:
    """Records, predictions and an adapter's configuration stay; the trained weights of dozens of cells do not."""
    from advisor.training.sources import ADAPTER_CONFIG

    adapter = folder / "model" / ADAPTER_CONFIG
    if adapter.is_file():
        shutil.copy(adapter, folder / ADAPTER_CONFIG)
    for name in ("model", "checkpoints"):
        shutil.rmtree(folder / name, ignore_errors=True)


def _recorded(records: Mapping[str, Any], key: str) -> SuiteRun | None:
    record = records.get(key)
    value: SuiteRun | None = record.value if record is not None and record.outcome == "completed" else None
    return value


def _with_error_shape(run: SuiteRun, suite: SuiteDefinition, plan: Plan, folder: Path) -> SuiteRun:
    """Also where its errors lie, if the suite says of its data which class is in the middle."""
    from advisor.experiments.suites.results import error_shape

    middle = suite.data[suite.cell(run.cell).data].middle_class
    if not middle or run.diverged:
        return run
    try:
        predictions = run_predictions(folder / run.folder, plan)
    except AdvisorError:  # the folder of an older run was tidied up; its other figures are recorded
        return run
    return dataclasses.replace(run, figures={**run.figures, **error_shape(predictions, middle)})


# --- the published backbones ------------------------------------------------------------------------------------------


PUBLISHED_FILE = "published.json"


def _kept(folder: Path) -> dict[str, dict[str, float]]:
    path = folder / PUBLISHED_FILE
    return dict(read_json(path, what="the predictions")["cells"]) if path.is_file() else {}


def _predict_published(
    suite: SuiteDefinition, scale: SuiteScale, folder: Path, device: str, on_event: OnEvent | None
) -> dict[str, dict[str, float]]:
    """Memory, time and parameters of the published backbones at the published batch, from their configurations."""
    import json

    from advisor.experiments.grid import content_key
    from advisor.experiments.suites.results import predicted_figures

    if not scale.predicts_published:
        return {}
    path = folder / PUBLISHED_FILE
    key = content_key([to_dict(suite), device, installed_versions()])
    if path.is_file() and read_json(path, what="the predictions").get("key") == key:
        return _kept(folder)
    wanted = [cell for cell in suite.cells if suite.models[cell.model].config]
    show = progress(on_event)
    phase(on_event, f"predicting {counted(len(wanted), 'published configuration')} on {device}")
    found: dict[str, dict[str, float]] = {}
    for number, cell in enumerate(wanted):
        show(cell.id, number / len(wanted))
        known, data = suite.models[cell.model], suite.data[cell.data]
        config = folder / "configs" / cell.model / "config.json"
        config.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomically(config, json.dumps(known.config, indent=1))
        try:
            configuration = configure(
                ModelSource(str(config.parent), task=data.task),
                method=cell.method,
                knobs=dict(cell.knobs),
                execution={
                    "micro_batch_size": cell.batch_size,
                    "max_seq_length": cell.max_seq_length,
                    "dtype": "float32",
                    **cell.execution,
                },
                num_labels=data.num_labels,
                device=device,
                evaluation=False,
            )
            cost = predict_configuration(configuration)
        except AdvisorError as failure:
            note(on_event, f"{cell.id} was not predicted for {known.hub}: {failure.message}")
            continue
        rows = data.rows * configuration.strategy.num_train_epochs
        found[cell.id] = predicted_figures(cost, rows)
    write_text_atomically(path, to_json({"key": key, "device": device, "cells": found}))
    return found


def _report(
    suite: SuiteDefinition,
    scale: str,
    inputs: SuiteInputs,
    plans: Mapping[str, Plan],
    runs: Sequence[SuiteRun],
    seeds: int,
    published: Mapping[str, Mapping[str, float]],
    failures: Sequence[str],
    **rest: Any,
) -> SuiteReport:
    from advisor.experiments.suites.results import SuiteReport, cell_results, load_note, verdicts
    from advisor.reporting.text import format_strategy

    rows = []
    for cell in suite.cells:
        plan = plans.get(cell.id)
        words = {"trained": "", "model": suite.models[cell.model].hub, "data": suite.data[cell.data].hub}
        if plan is not None:
            batch = f"{plan.execution.effective_batch_size} rows a step"
            words = {
                "trained": f"{plan.strategy.method}, {format_strategy(plan.strategy)}, {batch}",
                "model": inputs.labels[f"model {cell.model}"],
                "data": inputs.labels[f"data {cell.data}"],
            }
        mine = [run for run in runs if run.cell == cell.id]
        rows.append(cell_results(suite, cell, mine, seeds, described=words, published_predicted=published.get(cell.id)))
    found = verdicts(suite, rows, runs, constructed=frozenset(inputs.constructed), stand_in=inputs.stand_in)
    return SuiteReport(
        suite=suite.name,
        scale=scale,
        title=suite.title,
        authors=suite.authors,
        inputs=dict(inputs.labels),
        cells=tuple(rows),
        verdicts=found,
        notes=(*suite.notes, *load_note(runs), *failures),
        seeds=seeds,
        folder=str(rest.pop("folder")),
        **rest,
    )
