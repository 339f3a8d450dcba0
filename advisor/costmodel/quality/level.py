"""What full fine-tuning reaches on a classification task of which only classes, rows and model size are known.

Accuracy is put on the scale between always answering the most frequent class (0) and no error (1), as log-odds::

    log_odds[table] = mean + per_decade_of_rows * log10(rows / 1e4) + per_decade_of_parameters * log10(parameters / 1e8)
                      + effect[task] + error[table]

fitted over the published classification tables (``calibration/quality-prior.json``). The two slopes have a wide
normal prior around zero; the standard deviations of the task effect and of the error are those of highest marginal
likelihood. A new task draws a new effect, so the prediction interval is Student's t with the task as the unit.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from advisor.core.cost import Interval
from advisor.core.published_tables import PublishedTable
from advisor.core.stats import student_t_quantile
from advisor.costmodel.quality.gaps import GapModel

_EDGE = 0.005
"""Shares closer than this to either end are moved inside, so that their log-odds stay finite (half a point of
accuracy)."""

_MEAN_SD = 10.0
_SLOPE_SD = 1.0
"""Prior of the two slopes, log-odds per decade: ten times the rows or parameters hardly ever change the odds more
than e-fold."""

_SD_GRID = (0.1, 0.15, 0.25, 0.35, 0.5, 0.7, 1.0, 1.4)
MINIMUM_TASKS = 3
"""A spread over tasks cannot be told from fewer."""


@dataclass(frozen=True)
class Level:
    """Prediction of full fine-tuning's accuracy (0-1) on a new task."""

    accuracy: float
    interval: Interval


class LevelModel:
    """Posterior of the level, given tables.

    Args:
        tables: Published comparisons; those without classes or rows are passed over.
        gaps: Tells what full fine-tuning would have reached in a table that does not show it.

    Raises:
        ValueError: fewer than three tasks.
    """

    def __init__(self, tables: Sequence[PublishedTable], gaps: GapModel) -> None:
        known = [table for table in tables if _usable(table)]
        self.tasks = len({table.task for table in known})
        if self.tasks < MINIMUM_TASKS:
            raise ValueError(f"a spread over tasks needs at least {MINIMUM_TASKS} of them, but got {self.tasks}")
        self._same_task = np.array([[float(a.task == b.task) for b in known] for a in known])
        self._design = np.array([_covariates(table.train_rows or 0, table.total_parameters) for table in known])
        self._values = np.array([_log_odds(gaps.level(table.id) / 100, table.majority_share or 0.0) for table in known])
        self.task_sd, self.error_sd = max(
            itertools.product(_SD_GRID, _SD_GRID), key=lambda pair: self._log_likelihood(*pair)
        )
        self._inverse = np.linalg.inv(self._covariance(self.task_sd, self.error_sd))

    def predict(self, *, majority_share: float, train_rows: int, total_parameters: int) -> Level:
        """Median and 90 % prediction interval for a new task."""
        row = _covariates(train_rows, total_parameters)
        overlap = self._design @ _PRIOR @ row
        middle = float(overlap @ self._inverse @ self._values)
        variance = float(row @ _PRIOR @ row - overlap @ self._inverse @ overlap) + self.task_sd**2 + self.error_sd**2
        reach = student_t_quantile(0.95, self.tasks - 1) * math.sqrt(variance)
        low, accuracy, high = (_accuracy(middle + shift, majority_share) for shift in (-reach, 0.0, reach))
        return Level(accuracy, Interval(low, high, 0.9))

    def _covariance(self, task_sd: float, error_sd: float) -> np.ndarray:
        fixed = self._design @ _PRIOR @ self._design.T
        return np.asarray(fixed + task_sd**2 * self._same_task + error_sd**2 * np.eye(len(self._values)))

    def _log_likelihood(self, task_sd: float, error_sd: float) -> float:
        factor = np.linalg.cholesky(self._covariance(task_sd, error_sd))
        residual = np.linalg.solve(factor, self._values)
        return float(-0.5 * residual @ residual - np.log(np.diag(factor)).sum())


_PRIOR = np.diag([_MEAN_SD**2, _SLOPE_SD**2, _SLOPE_SD**2])


def _usable(table: PublishedTable) -> bool:
    has_figure = any(row.used for row in table.rows)
    return has_figure and table.task_type == "classification" and bool(table.majority_share) and bool(table.train_rows)


def _covariates(train_rows: int, total_parameters: int) -> np.ndarray:
    return np.array([1.0, math.log10(max(train_rows, 1) / 1e4), math.log10(max(total_parameters, 1) / 1e8)])


def _log_odds(accuracy: float, majority_share: float) -> float:
    share = min(max((accuracy - majority_share) / (1 - majority_share), _EDGE), 1 - _EDGE)
    return math.log(share / (1 - share))


def _accuracy(log_odds: float, majority_share: float) -> float:
    return majority_share + (1 - majority_share) / (1 + math.exp(-log_odds))
