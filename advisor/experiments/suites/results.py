"""From the runs of a suite to its tables and verdicts."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from advisor.core.chance import is_chance_accuracy
from advisor.core.cost import CostEstimate
from advisor.core.metrics import LABEL
from advisor.core.run import RunRecord
from advisor.experiments.grid import Stopped
from advisor.experiments.run_comparison import RunPredictions, error_summary
from advisor.experiments.store import cell_format
from advisor.experiments.suites.definition import Part, SuiteCell, SuiteDefinition
from advisor.experiments.suites.verdicts import Verdict, is_quality, judge

CellState = Literal["complete", "incomplete", "missing", "invalid", "onset not reached", "predicted"]
"""``invalid``: more than one seed diverged; ``onset not reached``: no better than the most frequent class."""

MOST_DIVERGED = 1
LOOP = ("warm_up", "training", "between_steps")
"""Parts of a predicted time that make up the training loop."""


@dataclass(frozen=True)
class SuiteRun:
    """One training of one cell.

    Attributes:
        cell, seed: What was trained.
        folder: Of its record and predictions, relative to the suite's.
        diverged: There is no result; the losses stopped being numbers.
        figures: Measured, by quantity in base units.
        predicted: The same before the run.
        at_chance: Whether it is no better than always answering the most frequent class.
        load: What other programs left of the processor meanwhile; empty when they left enough.
    """

    cell: str
    seed: int
    folder: str
    diverged: bool = False
    figures: dict[str, float] = field(default_factory=dict)
    predicted: dict[str, float] = field(default_factory=dict)
    at_chance: bool = False
    load: str = ""


FORMAT = cell_format(SuiteRun, "advisor bench SUITE --output")
"""Files of trainings."""


@dataclass(frozen=True)
class SeedSpread:
    """A figure over seeds.

    Attributes:
        mean: Over the seeds that did not diverge.
        deviation: Standard deviation; ``None`` of one seed.
        seeds: How many.
    """

    mean: float
    deviation: float | None
    seeds: int


@dataclass(frozen=True)
class CellResults:
    """One row of a suite's table.

    Attributes:
        cell: Its id.
        row, table, part: As in the definition.
        trained: The strategy and its knobs, in words.
        model, data: What it was trained on, stand-ins labelled.
        state: ``"complete"``, ``"incomplete"`` (not all seeds yet), ``"missing"``, ``"invalid"`` (more than one seed
            diverged), ``"onset not reached"``, or ``"predicted"`` (never trained).
        measured: By quantity.
        predicted: Of the same runs, before they began.
        published: By quantity.
        published_predicted: Of the published backbone, batch and length on the named device.
        diverged: Seeds that diverged.
        at_chance: Seeds that stayed at chance level.
    """

    cell: str
    row: str
    table: str
    part: Part
    trained: str
    model: str
    data: str
    state: CellState
    measured: dict[str, SeedSpread] = field(default_factory=dict)
    predicted: dict[str, float] = field(default_factory=dict)
    published: dict[str, float] = field(default_factory=dict)
    published_predicted: dict[str, float] = field(default_factory=dict)
    diverged: tuple[int, ...] = ()
    at_chance: tuple[int, ...] = ()


@dataclass(frozen=True)
class SuiteReport:
    """What a suite found so far.

    Attributes:
        suite, scale: What was run.
        title, authors: Of the study.
        device: That it ran on.
        published_device: That the published backbones were predicted for.
        inputs: By model and data set of the study, what took its place and why.
        cells: Rows of the tables.
        verdicts: On every claim, by measured cells and, of resources, by predictions of the published backbones.
        notes: Of the study, and of this call.
        seeds: Trainings per cell.
        predicted_s: Of all trainings, before the first.
        measured_s: Of those that are recorded.
        remaining: Trainings that are left.
        stopped: Why the call ended before them, if it did.
        folder: Of the records.
        versions: Libraries.
    """

    suite: str
    scale: str
    title: str
    authors: str
    device: str
    published_device: str
    inputs: dict[str, str]
    cells: tuple[CellResults, ...]
    verdicts: tuple[Verdict, ...]
    notes: tuple[str, ...] = ()
    seeds: int = 3
    predicted_s: float = 0.0
    measured_s: float = 0.0
    remaining: int = 0
    stopped: Stopped = ""
    folder: str = ""
    versions: dict[str, str] = field(default_factory=dict)


def figures_of(record: RunRecord) -> dict[str, float]:
    """Every figure that a table can show of a run: held-out metrics, and the benchmark core's efficiency."""
    measured = record.measurement
    found = dict(measured.metrics)
    if measured.benchmark is not None:
        found |= {name: figure.value for name, figure in measured.benchmark.efficiency.items()}
    if measured.achieved_sparsity is not None:
        found["sparsity"] = measured.achieved_sparsity
    return found


def error_shape(run: RunPredictions, middle: Sequence[str]) -> dict[str, float]:
    """Where a classifier's errors lie, as shares; nothing without an error or without a middle class.

    Args:
        run: Its predictions, with the probabilities of the classes.
        middle: Names of the class between the others; the first that the run has.

    Returns:
        ``true_middle_share`` of all rows; of the errors ``errors_true_middle_share``, ``errors_predicted_middle_share``
        and ``errors_overconfidence`` (median probability of the predicted class minus that of the true one).
    """
    name = next((name for name in middle if name in run.label_names), None)
    found = error_summary(run)
    if name is None or found is None or not found.errors or not found.overconfidence:
        return {}
    rows = run.columns[LABEL]
    return {
        "true_middle_share": float((rows == run.label_names.index(name)).mean()),
        "errors_true_middle_share": found.true_shares[name],
        "errors_predicted_middle_share": found.predicted_shares[name],
        "errors_overconfidence": found.overconfidence[2],
    }


def predicted_figures(cost: CostEstimate, rows: float | None = None) -> dict[str, float]:
    """The same of a prediction.

    Args:
        cost: Of a plan, or of a configuration without data.
        rows: Of the whole training, for its time where the prediction knows no data.
    """
    found = {
        "trainable_parameters": float(cost.trainable_parameters),
        "total_parameters": float(cost.total_parameters),
        "allocated_peak_bytes": float(cost.memory.allocated_bytes),
        "process_peak_bytes": float(cost.memory.device_bytes),
        "model_bytes": float(cost.memory.breakdown.weights_bytes),
    }
    if (time := cost.time) is not None:
        loop_s = sum(time.parts.get(name, 0.0) for name in LOOP)
        found |= {
            "step_p50_s": time.step_s,
            "samples_per_s": time.samples_per_s,
            "tokens_per_s": time.tokens_per_s,
            "training_s": loop_s if rows is None else rows / time.samples_per_s,
        }
        if time.inference is not None:
            found["inference_batch_n_samples_per_s"] = time.inference.samples_per_s
    if cost.quality is not None and cost.quality.value is not None:
        found[cost.quality.metric.name] = cost.quality.value
    return found


def load_note(runs: Sequence[SuiteRun]) -> tuple[str, ...]:
    """A sentence about trainings that did not have the machine to themselves, if there are any."""
    loaded = sum(bool(run.load) for run in runs)
    if not loaded:
        return ()
    return (
        f"{loaded} of {len(runs)} trainings ran while other programs used the processor: their times are longer than "
        "on an idle machine and scatter; memory and quality do not depend on that",
    )


def is_at_chance(record: RunRecord) -> bool:
    """Whether a run is no better than always answering the most frequent class, as far as its held-out rows tell."""
    metric, data = record.plan.model.traits.metric, record.plan.data_profile
    value = record.measurement.metrics.get(metric.name)
    if not metric.is_share or value is None:
        return False
    return is_chance_accuracy(value, data.majority_share or 0.0, data.eval_rows)


def spread(values: Sequence[float]) -> SeedSpread:
    """Mean and standard deviation of at least one value."""
    return SeedSpread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def cell_results(
    suite: SuiteDefinition,
    cell: SuiteCell,
    runs: Sequence[SuiteRun],
    seeds: int,
    *,
    described: Mapping[str, str],
    published_predicted: Mapping[str, float] | None = None,
) -> CellResults:
    """The row of one cell.

    Args:
        suite: That it belongs to.
        cell: The cell.
        runs: Its runs so far.
        seeds: How many there shall be.
        described: ``trained``, ``model`` and ``data`` in words.
        published_predicted: Of the published backbone.
    """
    whole = [run for run in runs if not run.diverged]
    names = [name for name in (whole[0].figures if whole else ()) if all(name in run.figures for run in whole)]
    diverged = tuple(run.seed for run in runs if run.diverged)
    at_chance = tuple(run.seed for run in whole if run.at_chance)
    return CellResults(
        cell.id,
        cell.row,
        cell.table,
        cell.part,
        **described,
        state=_state(cell, len(runs), seeds, len(diverged), 2 * len(at_chance) > len(whole)),
        measured={name: spread([run.figures[name] for run in whole]) for name in names},
        predicted=dict(runs[0].predicted) if runs else {},
        published=suite.published(cell),
        published_predicted=dict(published_predicted or {}),
        diverged=diverged,
        at_chance=at_chance,
    )


def _state(cell: SuiteCell, runs: int, seeds: int, diverged: int, at_chance: bool) -> CellState:
    if not cell.trained:
        return "predicted"
    if not runs:
        return "missing"
    if diverged > MOST_DIVERGED or diverged == runs:
        return "invalid"
    if at_chance:
        return "onset not reached"
    return "complete" if runs >= seeds else "incomplete"


def verdicts(
    suite: SuiteDefinition,
    cells: Iterable[CellResults],
    runs: Sequence[SuiteRun],
    *,
    constructed: frozenset[str],
    stand_in: bool,
) -> tuple[Verdict, ...]:
    """On every claim, from what was measured; of resources also from the predictions of the published backbones.

    Args:
        suite: With the claims.
        cells: Rows of the tables.
        runs: That were recorded.
        constructed: Data sets of the suite that were constructed as stand-ins.
        stand_in: Whether any model or data set is a stand-in.
    """
    rows = {cell.cell: cell for cell in cells}
    usable: dict[str, dict[int, dict[str, float]]] = {}
    for run in runs:
        if not run.diverged and run.cell in rows and rows[run.cell].state != "invalid":
            usable.setdefault(run.cell, {})[run.seed] = run.figures
    predicted = {name: {0: row.published_predicted} for name, row in rows.items() if row.published_predicted}
    measured_basis = "measured on stand-ins" if stand_in else "measured"
    found = []
    for claim in suite.claims:
        quality = [claim.quantity, *claim.ranked_by]
        judged = any(is_quality(name) for name in quality)
        blocked = ""
        if claim.needs_real_data and any(suite.cell(name).data in constructed for name in claim.cells):
            blocked = "its data are constructed here, which says nothing about accuracy"
        elif judged:
            late = [name for name in claim.cells if rows[name].state == "onset not reached"]
            blocked = f"onset not reached: {', '.join(late)}" if late else ""
        here = Verdict(claim.id, "not judged", measured_basis, reason=blocked)
        if not blocked and all(suite.cell(name).trained for name in claim.cells):
            here = judge(claim, usable, basis=measured_basis)
        elif not blocked:
            here = Verdict(claim.id, "not judged", "predicted", reason="there is no prediction of its cells")
        beside = Verdict(claim.id, "not judged")
        if not judged and all(name in predicted for name in claim.cells):
            beside = judge(claim, predicted, basis="predicted for the published backbones")
        if (
            here.outcome != "not judged"
            or beside.outcome == "not judged"
            or any(name in usable for name in claim.cells)
        ):
            found.append(here)
        if beside.outcome != "not judged":
            found.append(beside)
    return tuple(found)
