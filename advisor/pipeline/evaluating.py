"""Job: a finished run's model on new data, measured with the benchmark core."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from advisor.core.benchmark import ModelEvaluation
from advisor.core.data import DataSpec
from advisor.core.errors import InputError, OutputError
from advisor.core.plan import Plan, load_plan
from advisor.core.serialization import from_dict, read_json, to_json
from advisor.core.store import ensure_writable_dir, write_text_atomically
from advisor.pipeline.events import OnEvent, ignore, phase
from advisor.pipeline.outputs import EVALUATION_FILE, EVALUATIONS, PLAN_FILE
from advisor.pipeline.unchanged import check_base_unchanged


def evaluate(
    run: Path | str,
    data: str,
    *,
    output_dir: Path | str | None = None,
    max_rows: int | None = None,
    accept_changes: bool = False,
    on_event: OnEvent | None = None,
) -> ModelEvaluation:
    """Measure the model of a finished run on labelled data that it was not trained on.

    Columns, format and labels are read as the run's own data was. The folder of the result receives
    ``evaluation.json`` and ``predictions.parquet``.

    Args:
        run: Folder of a finished run.
        data: A file with the columns of the training data; for a ``datasets`` source the name of a split.
        output_dir: Folder of the result; by default one in the run's folder, named like the data.
        max_rows: Evaluate on at most so many rows.
        accept_changes: Measure although the base model's files have changed since the run.
        on_event: Told about phases.

    Raises:
        InputError: the folder holds no finished run, or its base model or its classes have changed since.
        OutputError: the folder of the result holds another one, or cannot be written.
        DataError: the file, a column or a label is not usable, or no row is left.
        ModelError: the model cannot be loaded.
        RunFailed: out of memory, or a crash.
    """
    from advisor.measurement.evaluation import evaluate_in_this_process
    from advisor.measurement.isolation import isolated
    from advisor.training.data import load_rows
    from advisor.training.data.resolving import with_eval_source

    folder = Path(run)
    plan = plan_of_run(folder)
    spec = dataclasses.replace(with_eval_source(plan.data, data), max_eval_rows=max_rows, inner_holdout=False)
    target = Path(output_dir) if output_dir is not None else folder / EVALUATIONS / Path(data).stem
    phase(on_event, "reading the data")
    rows = load_rows(spec, plan.model.task)  # what is wrong with the data is said before any model is loaded
    check_base_unchanged(plan, rows.label_names, accept_changes=accept_changes, on_event=on_event)
    _refuse_another_result(target, folder, spec)
    ensure_writable_dir(target)
    found: ModelEvaluation = isolated(
        evaluate_in_this_process, plan, folder.absolute(), spec, target, on_event=on_event or ignore
    ).unwrap()
    write_text_atomically(target / EVALUATION_FILE, to_json(found))
    return found


def _refuse_another_result(target: Path, run: Path, data: DataSpec) -> None:
    """The folder may hold an earlier evaluation of the same model on the same file, but no other result.

    Raises:
        OutputError: it does.
    """
    if (target / PLAN_FILE).is_file():
        raise OutputError(f"a result needs a folder of its own, but {target} is a run", fix="name another --output")
    if not (target / EVALUATION_FILE).is_file():
        return
    values = read_json(target / EVALUATION_FILE, what="the evaluation", error=OutputError)
    found = from_dict(ModelEvaluation, values, what=str(target / EVALUATION_FILE), error=OutputError)
    if (Path(found.run), found.data.eval_source) != (run.absolute(), data.eval_source):
        raise OutputError(
            f"a result needs a folder of its own, but {target} holds that of {found.run} on {found.data.eval_source}",
            fix="name another --output",
        )


def plan_of_run(folder: Path) -> Plan:
    """The plan of a run that has a trained model.

    Raises:
        InputError: there is no such folder, or no model in it.
    """
    if not (folder / PLAN_FILE).is_file():
        raise InputError(
            f"a run must be the folder of `advisor run --output`, but {folder} has no {PLAN_FILE}",
            fix="name the folder of a finished run",
        )
    if not (folder / "model").is_dir():
        raise InputError(
            f"the run must have finished, but {folder} has no trained model",
            fix=f"continue it: advisor run {folder / PLAN_FILE} --output {folder} --resume",
        )
    return load_plan(folder / PLAN_FILE)
