"""Fitting the model of set-ups to the corpus, and the runs as it sees them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from advisor.core.chance import is_chance_accuracy
from advisor.core.linear_probe import LinearProbeReport
from advisor.costmodel.quality.setup_model import SetUp, SetUpModel, axes, design_matrix, features
from advisor.experiments.corpus.design import load_design
from advisor.experiments.corpus.tables import Corpus, corpus_folder

LEVEL = 0.9
OWN_SCALE = 0.3
"""Prior standard deviation of terms of single methods and traits, relative to that of the shared ones."""


@dataclass(frozen=True)
class RecordedRun:
    """A run of the corpus as the model sees it.

    Attributes:
        set_up: What was run, with the probe of its task.
        accuracy, loss: Held-out, at the end.
        chance_loss: Loss of guessing with the class shares.
        task, source, variant: Where it belongs.
        seed: Of the run.
        items: Held-out items.
        early_share, early_loss, early_accuracy: First held-out look: share of the steps, and what it showed.
        middle_loss: Held-out loss at the second look.
        train_losses: One per step; none of runs without a curve.
        cpu_s: Processor time of the whole run.
    """

    set_up: SetUp
    accuracy: float
    loss: float
    chance_loss: float
    task: str
    source: str
    variant: str
    seed: int
    items: int
    early_share: float
    early_loss: float
    early_accuracy: float
    middle_loss: float
    train_losses: tuple[float, ...]
    cpu_s: float

    @property
    def has_curve(self) -> bool:
        """Whether it was recorded by ``make corpus``; of earlier runs only the result is known."""
        return bool(self.train_losses)

    @property
    def reached_onset(self) -> bool:
        """Whether it left chance level: clearly better than the most frequent class, or a loss below guessing."""
        by_accuracy = not is_chance_accuracy(self.accuracy, self.set_up.chance, self.items)
        return by_accuracy and not self.loss >= self.chance_loss


def recorded_runs(corpus: Corpus) -> list[RecordedRun]:
    """All runs with a finite loss, in the order of the table."""
    design = load_design()
    reports = {task: corpus.report(task) for task in corpus.tasks.task}
    sources = dict(zip(corpus.tasks.task, corpus.tasks.source, strict=True))
    found = []
    for row in corpus.runs.itertuples():
        report: LinearProbeReport | None = reports.get(row.task)
        if report is None or not math.isfinite(row.loss):
            continue
        variant = design.variant(row.variant)
        set_up = SetUp(
            probe=report.value, chance=report.chance_value, loss_ratio=report.loss / report.chance_loss,
            classes=len(report.class_shares), train_rows=row.train_rows, steps=row.steps, batch_size=row.batch_size,
            lr_rel=row.lr_rel, method=row.method, rank=variant.knobs.get("rank"),
            parameters=_PARAMETERS,
        )  # fmt: skip
        found.append(
            RecordedRun(
                set_up, row.accuracy, row.loss, report.chance_loss, row.task, sources[row.task], row.variant, row.seed,
                len(row.predicted), row.curve_steps[0] / row.steps, row.curve_losses[0], row.curve_accuracies[0],
                row.curve_losses[1], tuple(row.train_losses),
                row.training_cpu_s + row.evaluation_cpu_s + row.loading_cpu_s,
            )
        )  # fmt: skip
    return found


def earlier_runs() -> list[RecordedRun]:
    """Longer runs of the same model that earlier measurements of this project report: the result alone."""
    table = pd.read_csv(corpus_folder() / EARLIER)
    found = []
    for row in table.itertuples():
        rank = None if math.isnan(row.rank) else int(row.rank)
        set_up = SetUp(
            row.probe, row.chance, row.loss_ratio, row.classes, row.train_rows, row.steps, row.batch_size, row.lr_rel,
            row.method, rank, _PARAMETERS,
        )  # fmt: skip
        found.append(
            RecordedRun(
                set_up, row.accuracy, math.nan, math.nan, row.task, row.source, row.method, 1, row.items, math.nan,
                math.nan, math.nan, math.nan, (), math.nan,
            )
        )  # fmt: skip
    return found


EARLIER = "earlier-runs.csv"

_PARAMETERS = 22_700_000
"""Of the demo MiniLM, which all runs train."""


def fit(runs: Sequence[RecordedRun], *, conformal: bool = True) -> SetUpModel:
    """Coefficients, noise, and the factor of the intervals.

    Args:
        runs: Of several sources.
        conformal: Fit once more without each source for the intervals; without, their factor is that of a normal
            distribution.
    """
    names = tuple(dict.fromkeys(name for run in runs for name in features(run.set_up)))
    scale = np.array([OWN_SCALE if name.startswith("skill x ") else 1.0 for name in names])
    matrix = design_matrix([run.set_up for run in runs], names) * scale
    gains = np.array([run.accuracy - run.set_up.chance for run in runs])
    spreads = np.array([run.set_up.spread for run in runs])
    mean, covariance, noise_sd = _ridge(matrix / spreads[:, None], gains / spreads)
    residuals = (gains - matrix @ mean) / spreads
    task_sd = _common_sd(residuals, [run.task for run in runs])
    positions = [axes(run.set_up) for run in runs]
    ranges = {name: (min(p[name] for p in positions), max(p[name] for p in positions)) for name in positions[0]}
    model = SetUpModel(
        names, tuple(mean * scale), tuple(map(tuple, covariance * np.outer(scale, scale))), task_sd,
        math.sqrt(max(noise_sd**2 - task_sd**2, 0.25 * noise_sd**2)), 1.645,
        _difference_sd(matrix, covariance, runs), ranges, len(runs), len({run.source for run in runs}),
    )  # fmt: skip
    if not conformal:
        return model
    return replace(model, conformal=conformal_factor(runs))


def _ridge(matrix: NDArray[np.float64], gains: NDArray[np.float64]) -> tuple[NDArray, NDArray, float]:
    """Mean and covariance of the coefficients, and the noise, at the highest marginal likelihood."""
    from sklearn.linear_model import BayesianRidge

    fitted = BayesianRidge(fit_intercept=False, max_iter=1000).fit(matrix, gains)
    return fitted.coef_, fitted.sigma_, 1 / math.sqrt(fitted.alpha_)


def _common_sd(residuals: NDArray[np.float64], groups: Sequence[str]) -> float:
    """Standard deviation of group effects in residuals: the variance of the means beyond that of their noise."""
    names = sorted(set(groups))
    parts = [residuals[np.array([group == name for group in groups])] for name in names]
    parts = [part for part in parts if len(part) >= 2]
    if len(parts) < 3:
        return 0.0
    within = float(np.mean([part.var(ddof=1) for part in parts]))
    between = float(np.mean([part.mean() ** 2 - within / len(part) for part in parts]))
    return math.sqrt(max(between, 0.0))


def _difference_sd(matrix: NDArray[np.float64], covariance: NDArray[np.float64], runs: Sequence[RecordedRun]) -> float:
    """Median over pairs of runs of one task with one learning rate and different strategies."""
    found = []
    for one in range(len(runs)):
        for other in range(one):
            a, b = runs[one], runs[other]
            if a.task == b.task and a.variant != b.variant and a.set_up.lr_rel == b.set_up.lr_rel:
                step = matrix[one] - matrix[other]
                found.append(math.sqrt(max(float(step @ covariance @ step), 0.0)))
    return float(np.median(found)) if found else 0.0


def conformal_factor(runs: Sequence[RecordedRun]) -> float:
    """Factor of the predicted standard deviation that covers 90 % of the runs of a source that the fit did not see."""
    scores = left_out_scores(runs)
    return pooled_quantile(scores, LEVEL)


def left_out_scores(runs: Sequence[RecordedRun]) -> dict[str, list[float]]:
    """|error| / predicted standard deviation of every run by source, from a fit without that source."""
    scores: dict[str, list[float]] = {}
    for source in sorted({run.source for run in runs}):
        model = fit([run for run in runs if run.source != source], conformal=False)
        for run in runs:
            if run.source == source:
                predicted = model.predict(run.set_up)
                scores.setdefault(source, []).append(abs(run.accuracy - predicted.value) / predicted.sd)
    return scores


def pooled_quantile(scores: dict[str, list[float]], level: float) -> float:
    """Quantile of the scores with every source weighing the same, at ``level (1 + 1 / sources)``."""
    pairs = sorted((score, 1 / len(found)) for found in scores.values() for score in found)
    wanted, total = min(level * (1 + 1 / len(scores)), 1.0) * len(scores), 0.0
    for score, weight in pairs:
        total += weight
        if total >= wanted - 1e-9:
            return score
    return pairs[-1][0]
