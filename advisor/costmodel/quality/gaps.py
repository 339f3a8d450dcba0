"""How far each method stays behind full fine-tuning: an empirical Bayes estimate from published tables.

Model, all in points (for ``nll`` tables: per cent of the loss, which is what a point is to a loss)::

    figure[table, method] = level[table] + gap[method] + by_task_type[method, type] + by_scale[method, bucket]
                          + by_study[method, study] + error

The level of a table is free. Every other effect is normal around zero, and zero for full fine-tuning, so a method
with little evidence is drawn towards "no difference" and a method seen only on other scales borrows what it shares.
The effect of a study stands for its learning rates and for who measured (authors usually win with their own method):
it does not shrink with the number of tables of one study. The error adds up seed noise, the binomial error of the
held-out items and what a method happens to gain on one task. The four standard deviations are those that make the
tables most likely (marginal likelihood); posterior means and variances are then exact (linear Gaussian).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from advisor.core.published_tables import NLL, PublishedTable
from advisor.core.tasks import Comparisons
from advisor.strategies import REFERENCE_METHOD

SCALE_EDGES = (200_000_000, 1_000_000_000, 20_000_000_000)
"""Buckets of model scale: base-size encoders, up to 1B, up to 20B, above."""

_LEVEL_SD = 100.0
"""Wider than the whole range of points: a table's own level says nothing about methods."""

_SD_GRID = (0.1, 0.3, 0.6, 1.0, 1.5, 2.2, 3.3, 5.0, 7.5, 11.0, 16.0)
"""Where the likelihood is evaluated, in points; neighbouring values are closer than the data can tell apart."""


@dataclass(frozen=True)
class EffectSpread:
    """Standard deviations of the effects, in points."""

    method: float = 3.3
    setting: float = 1.0
    study: float = 1.0
    task: float = 1.0


@dataclass(frozen=True)
class Gap:
    """Expected difference to full fine-tuning in points (negative: worse), and the standard deviation of the
    prediction.
    """

    mean_points: float
    sd_points: float


@dataclass(frozen=True)
class _Figure:
    table: str
    method: str
    task_type: Comparisons
    bucket: int
    study: str
    points: float
    noise_variance: float


def scale_bucket(total_parameters: int) -> int:
    """Index of the model-scale bucket, 0 for the smallest."""
    return sum(total_parameters >= edge for edge in SCALE_EDGES)


def to_points(value: float, metric: str) -> float:
    """A published figure on the scale of the model above, higher is better."""
    return -100.0 * math.log(value) if metric == NLL else value


class GapModel:
    """Posterior of all gaps, given tables.

    Args:
        tables: Published comparisons.
        seed_sd_points: Standard deviation between seeds.
        spread: Standard deviations of the effects; estimated when ``None``.
    """

    def __init__(
        self, tables: Sequence[PublishedTable], *, seed_sd_points: float, spread: EffectSpread | None = None
    ) -> None:
        self.seed_sd_points = seed_sd_points
        self._figures = [figure for table in tables for figure in _figures(table, seed_sd_points)]
        self._points = np.array([figure.points for figure in self._figures])
        self._shares = _shared(self._figures)
        self.spread = spread if spread is not None else self._most_likely_spread()
        inverse = np.linalg.inv(self._covariance(self.spread))
        ones = np.ones(len(self._figures))
        self._mean_level = float(ones @ inverse @ self._points / (ones @ inverse @ ones)) if self._figures else 0.0
        self._inverse = inverse
        self._weights = inverse @ (self._points - self._mean_level)

    def gap(self, method: str, task_type: Comparisons, total_parameters: int) -> Gap:
        """What to expect of ``method`` in a new study of this task type and scale."""
        if method == REFERENCE_METHOD:
            return Gap(0.0, self.seed_sd_points)
        spread, bucket = self.spread, scale_bucket(total_parameters)
        overlap = np.array([
            0.0 if figure.method != method
            else spread.method**2 + spread.setting**2 * ((figure.task_type == task_type) + (figure.bucket == bucket))
            for figure in self._figures
        ])  # fmt: skip
        mean = float(overlap @ self._weights)
        prior_variance = spread.method**2 + 2 * spread.setting**2
        explained = float(overlap @ self._inverse @ overlap)
        new_study = spread.study**2 + spread.task**2 + self.seed_sd_points**2
        return Gap(mean, math.sqrt(max(prior_variance - explained, 0.0) + new_study))

    def tables_behind(self, method: str) -> int:
        """How many tables show this method beside another one."""
        return len({figure.table for figure in self._figures if figure.method == method})

    def level(self, table_id: str) -> float:
        """What full fine-tuning reaches in a table, in points, also where the table does not show it."""
        overlap = np.array([_LEVEL_SD**2 * (figure.table == table_id) for figure in self._figures])
        return self._mean_level + float(overlap @ self._weights)

    def _covariance(self, spread: EffectSpread) -> np.ndarray:
        by_setting = self._shares["task_type"] + self._shares["bucket"]
        effects = spread.method**2 + spread.setting**2 * by_setting + spread.study**2 * self._shares["study"]
        own = np.array([figure.noise_variance + spread.task**2 for figure in self._figures])
        return np.asarray(_LEVEL_SD**2 * self._shares["table"] + self._shares["method"] * effects + np.diag(own))

    def _log_likelihood(self, spread: EffectSpread) -> float:
        covariance = self._covariance(spread)
        factor = np.linalg.cholesky(covariance)
        residual = np.linalg.solve(factor, self._points - self._points.mean())
        return float(-0.5 * residual @ residual - np.log(np.diag(factor)).sum())

    def _most_likely_spread(self) -> EffectSpread:
        """Coordinate ascent over the grid; three rounds suffice because the effects hardly trade off."""
        best = EffectSpread()
        if not self._figures:
            return best
        for _ in range(3):
            for name in ("method", "setting", "study", "task"):
                best = max((replace(best, **{name: sd}) for sd in _SD_GRID), key=self._log_likelihood)
        return best


def _figures(table: PublishedTable, seed_sd_points: float) -> list[_Figure]:
    figures = []
    for row in table.rows:
        if not row.used:
            continue
        share = row.value / 100
        binomial = 1e4 * share * (1 - share) / table.eval_items if table.eval_items and table.is_share else 0.0
        figures.append(
            _Figure(table.id, row.method, table.task_type, scale_bucket(table.total_parameters), table.study,
                    to_points(row.value, table.metric), binomial + seed_sd_points**2)
        )  # fmt: skip
    return figures


def _shared(figures: list[_Figure]) -> dict[str, np.ndarray]:
    """Per field, which pairs of figures agree in it; ``method`` only pairs methods that have a gap at all."""
    matrices = {}
    for name in ("table", "task_type", "bucket", "study", "method"):
        values = [getattr(figure, name) for figure in figures]
        matrices[name] = np.array([[float(a == b) for b in values] for a in values]).reshape(len(values), len(values))
    has_gap = np.array([float(figure.method != REFERENCE_METHOD) for figure in figures])
    matrices["method"] = matrices["method"] * np.outer(has_gap, has_gap)
    return matrices
