"""Job: a finished run's model on new data, measured with the benchmark core."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from advisor.core.benchmark import ModelEvaluation
from advisor.core.errors import InputError
from advisor.core.plan import Plan, load_plan
from advisor.core.serialization import to_json
from advisor.core.store import ensure_writable_dir, write_text_atomically
from advisor.pipeline.events import OnEvent, ignore
from advisor.pipeline.outputs import EVALUATION_FILE, EVALUATIONS, PLAN_FILE


def evaluate(
    run: Path | str,
    data: str,
    *,
    output_dir: Path | str | None = None,
    max_rows: int | None = None,
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
        on_event: Told about phases.

    Raises:
        InputError: the folder holds no finished run.
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
    load_rows(spec, plan.model.task)  # what is wrong with the data is said before any model is loaded
    ensure_writable_dir(target)
    found: ModelEvaluation = isolated(
        evaluate_in_this_process, plan, folder.absolute(), spec, target, on_event=on_event or ignore
    ).unwrap()
    write_text_atomically(target / EVALUATION_FILE, to_json(found))
    return found


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
