"""Job: finished runs, or evaluations of them, compared item by item."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from advisor.core.benchmark import ModelEvaluation, predictions_file
from advisor.core.comparison import RunComparison
from advisor.core.data import DataSpec
from advisor.core.errors import AdvisorError, InputError
from advisor.core.plan import Plan
from advisor.core.serialization import from_dict, read_json, to_dict
from advisor.pipeline.evaluating import plan_of_run
from advisor.pipeline.outputs import EVALUATION_FILE

if TYPE_CHECKING:
    from advisor.experiments.run_comparison import RunPredictions


def compare(runs: Sequence[Path | str]) -> RunComparison:
    """Compare runs on the same held-out items.

    Args:
        runs: At least two folders: of finished runs, or of `advisor evaluate`.

    Raises:
        InputError: a folder holds no run, the runs are of several tasks, or their held-out items differ.
        DataError: a run kept no predictions.
    """
    from advisor.experiments.run_comparison import compare_runs

    folders = [Path(run) for run in runs]
    plans, data = zip(*(_plan_and_data(folder) for folder in folders), strict=True) if folders else ((), ())
    tasks = sorted({plan.model.task for plan in plans})
    if len(tasks) > 1:
        raise InputError(f"runs must be of one task, but got {' and '.join(tasks)}", fix="compare runs of one task")
    found = [run_predictions(folder, plan) for folder, plan in zip(folders, plans, strict=True)]
    if not found:
        raise InputError("a comparison needs at least two runs, but got none", fix="name two folders of runs")
    return compare_runs(found, plans[0].model.traits.metric, _texts(plans[0], data[0]))


def _plan_and_data(folder: Path) -> tuple[Plan, DataSpec]:
    """The plan that a folder belongs to, and the data whose held-out part was predicted."""
    if (folder / EVALUATION_FILE).is_file():
        values = read_json(folder / EVALUATION_FILE, what="the evaluation")
        evaluation = from_dict(ModelEvaluation, values, what=str(folder / EVALUATION_FILE))
        return plan_of_run(Path(evaluation.run)), evaluation.data
    plan = plan_of_run(folder)
    return plan, plan.data


def run_predictions(folder: Path, plan: Plan) -> RunPredictions:
    """The predictions that a run of this plan kept in its folder.

    Raises:
        DataError: it kept none.
    """
    from advisor.experiments.run_comparison import RunPredictions
    from advisor.training.data.predictions import read_predictions

    columns, names = read_predictions(predictions_file(folder))
    parts = [to_dict(part) for part in (plan.model, plan.data, plan.strategy, plan.execution)]
    setting = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
    return RunPredictions(str(folder), plan.strategy.method, plan.seed, setting, columns, names)


def _texts(plan: Plan, data: DataSpec) -> dict[str, str]:
    """Texts of the held-out items by hash; none where the data cannot be read any more."""
    from advisor.training.data import load_rows
    from advisor.training.data.rows import row_key

    try:
        rows = load_rows(data, plan.model.task)
    except AdvisorError:
        return {}
    return {row_key(row).hex(): " ".join(row.texts) for row in rows.eval}
