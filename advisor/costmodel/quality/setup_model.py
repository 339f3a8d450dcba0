"""Held-out accuracy of a set-up, from a linear probe of its task: a linear model fitted to recorded runs.

The probe (``core.linear_probe``) says what frozen features hold: its ``skill`` over always answering the most
frequent class. A run gains that, and some of the ``room`` above, once it has got far enough, which depends on its steps
and learning rate::

    accuracy[set-up] = chance + coefficients . features(probe, set-up) + error

with a normal prior on the coefficients (ridge regression), so that a method with few runs is drawn to the others. The
coefficients are fitted to the runs of ``calibration/corpus`` (``make quality-model``) and ship as JSON.

Intervals are split-conformal with the source of the texts as the unit: residuals of runs whose source the fit did not
see, each source weighing the same (pooled distribution functions, Dunn, Wasserman and Ramdas 2023, JASA 118:2491).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from advisor.core.linear_probe import LinearProbeReport
from advisor.core.published_tables import recorded_quality_model
from advisor.core.serialization import from_dict
from advisor.core.strategy import StrategyConfig
from advisor.strategies import find_strategy

REFERENCE_STEPS = 64.0
"""Optimizer steps at which ``progress`` of a default learning rate is zero."""

EARLY, LATE = -1.0, 1.5
"""Progress at which easy and hard tasks have half of their onset behind them: 32 and 180 steps at the default rate."""

HIGHEST_ACCURACY = 0.995
"""No published table reaches more; a sum of terms could."""

LEAST_ERROR_LEFT = 0.5
"""Share of the probe's error that is left at least: no recorded run of this project halved it."""

EXTRAPOLATION_SHARE = 0.25
"""Intervals grow by this share for every doubling by which a set-up lies outside of the recorded ones."""


@dataclass(frozen=True)
class SetUp:
    """What the accuracy of a run is predicted from.

    Attributes:
        probe: Held-out accuracy of the probe.
        chance: Share of the most frequent class.
        loss_ratio: Held-out loss of the probe over that of guessing with the class shares.
        classes: How many.
        train_rows: Of the run.
        steps: Optimizer steps of the run.
        batch_size: Rows per step.
        lr_rel: Multiple of the method's default learning rate.
        method: Registry name of the strategy.
        rank: Of the adapter; ``None`` without one.
        parameters: Of the whole model.
    """

    probe: float
    chance: float
    loss_ratio: float
    classes: int
    train_rows: int
    steps: int
    batch_size: int
    lr_rel: float
    method: str
    rank: int | None
    parameters: int

    @property
    def skill(self) -> float:
        """What the probe gains over always answering the most frequent class."""
        return max(self.probe - self.chance, 0.0)

    @property
    def room(self) -> float:
        """What is left above the probe."""
        return 1 - max(self.probe, self.chance)

    @property
    def progress(self) -> float:
        """How far the run gets: doublings of steps x relative learning rate."""
        return math.log2(max(self.steps, 1) * self.lr_rel / REFERENCE_STEPS)

    @property
    def spread(self) -> float:
        """How far runs scatter, relative to a task of middling skill: what can be gained can be missed."""
        return 0.7 + self.skill

    def begun(self, onset: float) -> float:
        """How much of its onset a run has behind it, from 0 to 1, where half of it lies at that ``progress``."""
        return 1 / (1 + math.exp(onset - self.progress))


def set_up_of(
    report: LinearProbeReport,
    strategy: StrategyConfig,
    *,
    train_rows: int,
    steps: int,
    batch_size: int,
    parameters: int,
) -> SetUp:
    """Of a strategy on a probed task."""
    return SetUp(
        probe=report.value,
        chance=report.chance_value,
        loss_ratio=report.loss / report.chance_loss if report.chance_loss > 0 else 1.0,
        classes=max(len(report.class_shares), 2),
        train_rows=train_rows,
        steps=steps,
        batch_size=batch_size,
        lr_rel=strategy.lr_rel,
        method=strategy.method,
        rank=strategy.rank,
        parameters=parameters,
    )


def features(set_up: SetUp) -> dict[str, float]:
    """Terms of the linear model by name; a term that is not listed is zero."""
    early, late = set_up.skill * set_up.begun(EARLY), set_up.skill * set_up.begun(LATE)
    above_default = max(math.log2(set_up.lr_rel / 3), 0.0)
    return {
        "skill": set_up.skill,
        "skill, early onset": early,
        "skill, late onset": late,
        "skill of easy tasks, early onset": early * set_up.skill,
        "room above the probe": 0.0 if _head_only(set_up) else set_up.room * set_up.begun(LATE),
        "high learning rate": early * above_default,
        **{f"skill x {trait}": late * value for trait, value in _traits(set_up).items()},
        f"skill x {family(set_up.method)}": early,
    }


def _traits(set_up: SetUp) -> dict[str, float]:
    """What a method trains, so that one without recorded runs is like those that train the same."""
    found = find_strategy(set_up.method)
    if found is None:
        return {}
    return {
        "frozen layers": float(not found.backpropagates_to_inputs),
        "own weights": float(found.trains_base_weights),
        "rank": math.log2(set_up.rank / 8) / 2 if set_up.rank else 0.0,
    }


def _head_only(set_up: SetUp) -> bool:
    """Whether features stay as the probe saw them."""
    found = find_strategy(set_up.method)
    return found is not None and not found.stateful and not found.backpropagates_to_inputs


def family(method: str) -> str:
    """Methods that build the same model share what is known of them."""
    found = find_strategy(method)
    return (found.builds_as or method) if found is not None else method


@dataclass(frozen=True)
class FinishedRun:
    """A run that has left chance level.

    Attributes:
        set_up: What was run.
        accuracy: Held-out.
        items: Held-out items that it is over.
    """

    set_up: SetUp
    accuracy: float
    items: int

    @property
    def sampling_variance(self) -> float:
        """Binomial, of the held-out items."""
        share = min(max(self.accuracy, 0.01), 0.99)
        return share * (1 - share) / max(self.items, 1)


@dataclass(frozen=True)
class SetUpPrediction:
    """Of one set-up.

    Attributes:
        value: Expected held-out accuracy, between chance and 1.
        sd: Standard deviation of the prediction, the noise of a run included.
        half_width: Half of the 90 % interval.
        inside: Whether the set-up lies between recorded ones.
        parts: What adds up to ``value - chance``, largest first: name and share.
    """

    value: float
    sd: float
    half_width: float
    inside: bool
    parts: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class SetUpModel:
    """Fitted coefficients.

    Attributes:
        names: Of the terms.
        coefficients: One per term.
        covariance: Of the coefficients, row by row.
        task_sd: Of what all runs of one task have in common and the terms do not explain, per ``spread``.
        noise_sd: Of a run around that, per ``spread``.
        conformal: Factor of ``sd`` that covers 90 % of runs of unseen sources.
        difference_sd: Of the difference of two strategies on one task, in the median over the recorded ones: closer
            predictions are ties.
        ranges: Smallest and largest recorded value by name (``log2`` of steps, learning rate, rows, parameters).
        runs, sources: How many it was fitted to.
    """

    names: tuple[str, ...]
    coefficients: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    task_sd: float
    noise_sd: float
    conformal: float
    difference_sd: float = 0.0
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    runs: int = 0
    sources: int = 0

    def predict(self, set_up: SetUp, runs: Sequence[FinishedRun] = ()) -> SetUpPrediction:
        """Accuracy of one set-up, given runs of other set-ups of the same task.

        A normal distribution is conditioned on the runs: what they share with the set-up are the terms of the model and
        the effect of the task. Runs at chance level must not be among them.
        """
        rows = self._rows([set_up, *(run.set_up for run in runs)])
        means = np.array([item.chance for item in (set_up, *(run.set_up for run in runs))]) + rows @ self._weights
        spreads = np.array([item.spread for item in (set_up, *(run.set_up for run in runs))])
        shared = rows @ np.array(self.covariance) @ rows.T + self.task_sd**2 * np.outer(spreads, spreads)
        value, variance = float(means[0]), float(shared[0, 0])
        if runs:
            noise = np.diag([(self.noise_sd * run.set_up.spread) ** 2 + run.sampling_variance for run in runs])
            gain = shared[0, 1:] @ np.linalg.inv(shared[1:, 1:] + noise)
            value += float(gain @ (np.array([run.accuracy for run in runs]) - means[1:]))
            variance -= float(gain @ shared[1:, 0])
        sd = math.sqrt(max(variance, 0.0) + (self.noise_sd * set_up.spread) ** 2)
        outside = self.outside(set_up)
        parts = [(name, float(part)) for name, part in zip(self.names, rows[0] * self._weights, strict=True) if part]
        if runs:
            parts.append(("short runs", value - float(means[0])))
        return SetUpPrediction(
            min(max(value, set_up.chance), 1 - LEAST_ERROR_LEFT * set_up.room, HIGHEST_ACCURACY),
            sd,
            self.conformal * sd * (1 + EXTRAPOLATION_SHARE * outside),
            outside == 0.0,
            tuple(sorted(parts, key=lambda part: -abs(part[1]))),
        )

    @property
    def _weights(self) -> NDArray[np.float64]:
        return np.array(self.coefficients)

    def _rows(self, set_ups: Sequence[SetUp]) -> NDArray[np.float64]:
        return design_matrix(set_ups, self.names)

    def outside(self, set_up: SetUp) -> float:
        """Doublings by which a set-up lies outside of the recorded ones, all axes together."""
        total = 0.0
        for name, value in axes(set_up).items():
            low, high = self.ranges.get(name, (-math.inf, math.inf))
            total += max(low - value, value - high, 0.0)
        return total

    def steps_were_recorded(self, set_up: SetUp) -> bool:
        """Whether recorded runs had as many steps, and as few."""
        low, high = self.ranges.get("steps", (-math.inf, math.inf))
        return low <= axes(set_up)["steps"] <= high


def axes(set_up: SetUp) -> dict[str, float]:
    """The axes along which a set-up can lie outside of the recorded ones, in doublings."""
    return {
        "steps": math.log2(max(set_up.steps, 1)),
        "learning rate": math.log2(set_up.lr_rel),
        "rows": math.log2(max(set_up.train_rows, 1)),
        "parameters": math.log2(max(set_up.parameters, 1)) / 2,
    }


def design_matrix(set_ups: Sequence[SetUp], names: tuple[str, ...]) -> NDArray[np.float64]:
    """One row per set-up, one column per term."""
    rows: list[Mapping[str, float]] = [features(item) for item in set_ups]
    return np.array([[row.get(name, 0.0) for name in names] for row in rows])


@lru_cache(maxsize=1)
def default_set_up_model() -> SetUpModel | None:
    """The model that ships; ``None`` where there is none."""
    values = recorded_quality_model()
    return None if values is None else from_dict(SetUpModel, values, what="the model of set-ups")
