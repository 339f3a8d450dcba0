"""Expected held-out quality of a strategy: prior from published tables, sharpened by short runs when they were bought.

Unknowns are the level b of full fine-tuning on the task and the gap g[m] of every method to it; before any run they are
independent normal variables (``level``, ``gaps``). A short run of method e, carried to the full run (``curves``),
observes b + g[e] with a known error. Conditioning a normal distribution on these observations gives every method its
estimate: its own runs where it has some, else the task's level as the other methods' runs show it plus its prior gap.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from advisor.core.cost import Basis, Evidence, Interval, QualityEstimate, QualityPoint
from advisor.core.data import DataProfile
from advisor.core.linear_probe import LinearProbeReport
from advisor.core.metrics import Metric, same
from advisor.core.model import ModelSpec
from advisor.core.published_tables import PublishedTables, load_tables
from advisor.core.stats import NORMAL_95, normal_cdf
from advisor.core.strategy import StrategyConfig
from advisor.core.tasks import Comparisons
from advisor.costmodel.quality import curves
from advisor.costmodel.quality.evidence import QualityEvidence
from advisor.costmodel.quality.gaps import Gap, GapModel
from advisor.costmodel.quality.level import Level, LevelModel
from advisor.costmodel.quality.setup_model import FinishedRun, SetUp, SetUpModel, default_set_up_model, set_up_of
from advisor.strategies import get_strategy

CERTIFYING_TASKS = 9
"""Split-conformal intervals over K exchangeable tasks certify at most K / (K + 1): 90 % needs nine. Published
benchmarks are no sample of users' tasks, so only tasks that the advisor ran to the end itself count; none ship with
it."""

USUAL_BATCH_SIZE = 16
"""Rows per optimizer step assumed where a plan does not say."""

FEW_EXAMPLES = 3000
"""Below so many training examples (rows x epochs) the prior's interval reaches down to the majority share: published
tables train to the end. With 640 examples nine of ten MiniLM runs on the movie sentences (accuracy 0.61 to 0.74) fell
below an interval that started at 0.71; with 3,200 the run was inside."""


@dataclass(frozen=True)
class QualityPrior:
    """What is known before the task is looked at.

    Attributes:
        gaps: Of the methods to full fine-tuning.
        levels: Of full fine-tuning on a new task.
        finished_tasks: Tasks that this advisor ran to the end and compared with its prediction.
    """

    gaps: GapModel
    levels: LevelModel
    finished_tasks: int = 0

    @classmethod
    def from_tables(cls, tables: PublishedTables) -> QualityPrior:
        """Fit the prior; takes some tens of milliseconds."""
        gaps = GapModel(tables.tables, seed_sd_points=tables.seed_noise.sd_points)
        return cls(gaps, LevelModel(tables.tables, gaps))

    @property
    def seed_sd(self) -> float:
        """Standard deviation of accuracy (0-1) between seeds."""
        return self.gaps.seed_sd_points / 100


@lru_cache(maxsize=1)
def default_prior() -> QualityPrior:
    """The prior from the tables that ship with the advisor."""
    return QualityPrior.from_tables(load_tables())


@dataclass(frozen=True)
class _Posterior:
    """Normal estimate of one method's figure; the two sides of the 90 % interval may differ."""

    value: float
    low_sd: float
    high_sd: float

    def interval(self, value: float) -> Interval:
        """90 %, around a value that was held to its limits."""
        return Interval(max(value - NORMAL_95 * self.low_sd, 0.0), min(value + NORMAL_95 * self.high_sd, 1.0), 0.9)


class QualityModel:
    """Predicts the held-out metric of a plan.

    Args:
        prior: From published tables; the shipped one when ``None``.
        evidence: Short runs on this very task, if any were bought.
    """

    def __init__(
        self,
        prior: QualityPrior | None = None,
        evidence: QualityEvidence | None = None,
        probe: LinearProbeReport | None = None,
        set_ups: SetUpModel | None = None,
    ) -> None:
        self.prior = prior if prior is not None else default_prior()
        self.evidence = evidence
        self.probe = probe
        self.set_ups = set_ups or (default_set_up_model() if probe is not None else None)

    def estimate(
        self,
        model: ModelSpec,
        strategy: StrategyConfig,
        data: DataProfile | None,
        *,
        min_quality: float | None = None,
        batch_size: int = USUAL_BATCH_SIZE,
    ) -> QualityEstimate:
        """The task's metric after the full run: a share of right items, or what follows from the loss (perplexity).

        Nothing is predicted (``value`` is ``None``) of a task that was not looked at: neither a probe nor a short run
        says how hard it is. Neither are metrics of other kinds, nor tasks that no published comparison resembles.

        Args:
            model: What is trained.
            strategy: How.
            data: On which rows.
            min_quality: Answered as a probability.
            batch_size: Rows per optimizer step.
        """
        metric, comparisons = model.traits.metric, model.traits.comparisons
        if comparisons is None:
            return _abstain(metric, f"no published comparison of methods is about {model.traits.title}")
        if metric.from_loss is not None:
            return self._following_loss(model, strategy, min_quality)
        if metric.is_share and comparisons == "classification":
            trained = not get_strategy(strategy.method).fits_frozen_features
            if trained and self.probe is not None and self.set_ups is not None and data is not None:
                return self._from_probe(self.probe, self.set_ups, model, strategy, data, min_quality, batch_size)
            return self._accuracy(model, strategy, data, min_quality)
        return _abstain(metric, f"no published comparison of methods has this metric ({metric.title})")

    def known_gap(self, model: ModelSpec, strategy: StrategyConfig, data: DataProfile | None = None) -> float:
        """How far a method stays behind full fine-tuning for certain, on the ranking scale: accuracy (0-1), or share of
        the loss.

        0 unless published comparisons put it behind with a probability of 95 %, and always for short runs, which these
        comparisons are not about: what is not known to be worse is a tie.
        """
        if data is not None and data.train_rows * strategy.num_train_epochs < FEW_EXAMPLES:
            return 0.0
        gap = self._gap(model, strategy.method, strategy)
        return min(gap.mean_points + NORMAL_95 * gap.sd_points, 0.0) / 100

    def caution(self, model: ModelSpec, strategy: StrategyConfig) -> float:
        """What an estimate that only rests on other methods' runs is marked down by when plans are ordered.

        The standard deviation of its gap, on the ranking scale; 0 for a method with runs of its own, and as long as
        nothing was run.
        """
        if self.evidence is None or not self.evidence.methods or strategy.method in self.evidence.methods:
            return 0.0
        return self._gap(model, strategy.method, strategy).sd_points / 100

    @property
    def seed_margin(self) -> float:
        """Differences below this are what two seeds of one run differ by: the standard deviation of their difference,
        on the ranking scale.
        """
        return math.sqrt(2) * self.prior.seed_sd

    @property
    def tie_margin(self) -> float:
        """Differences below this are ties: the standard deviation of the difference of two seeds, or where that is
        more, of the predicted difference of two strategies.
        """
        return self.seed_margin if self.set_ups is None else max(self.seed_margin, self.set_ups.difference_sd)

    def _gap(self, model: ModelSpec, method: str, strategy: StrategyConfig | None = None) -> Gap:
        if strategy is not None:
            method = get_strategy(method).quality_family(strategy)
        return self.prior.gaps.gap(method, _task_type(model), model.total_parameters)

    # --- accuracy -------------------------------------------------------------------------------------------------

    def published(
        self, model: ModelSpec, strategy: StrategyConfig, data: DataProfile | None, *, min_quality: float | None = None
    ) -> QualityEstimate:
        """What published comparisons let expect of the method on any task with these classes and rows.

        They train to the end on large data sets and do not know the task: this is no prediction of a run, and orders
        no methods.
        """
        majority = _majority(model, data)
        rows = data.train_rows if data else _UNKNOWN_ROWS
        level, gap = self._level(model, data), self._gap(model, strategy.method, strategy)
        posterior = _prior_only(level, gap)
        if rows * strategy.num_train_epochs < FEW_EXAMPLES:
            posterior = replace(posterior, low_sd=max(posterior.low_sd, (posterior.value - majority) / NORMAL_95))
        value = min(max(posterior.value, majority), _HIGHEST_ACCURACY)
        tables = self.prior.gaps.tables_behind(strategy.method)
        reason = (
            f"{self.prior.levels.tasks} published tasks above a majority share of {majority:.2f}; {strategy.method}"
        )
        reason += f" {gap.mean_points:+.1f} points against full fine-tuning in {tables} published tables"
        return QualityEstimate(
            model.traits.metric, value, posterior.interval(value), _p_at_least(min_quality, value, posterior),
            self.certified, reason, "extrapolated", "prior",
        )  # fmt: skip

    def _level(self, model: ModelSpec, data: DataProfile | None) -> Level:
        return self.prior.levels.predict(
            majority_share=_majority(model, data),
            train_rows=data.train_rows if data else _UNKNOWN_ROWS,
            total_parameters=model.total_parameters,
        )

    def _accuracy(
        self, model: ModelSpec, strategy: StrategyConfig, data: DataProfile | None, min_quality: float | None
    ) -> QualityEstimate:
        if self.evidence is not None and self.evidence.diverged(strategy.method):
            return _abstain(
                model.traits.metric, f"the short run of {strategy.method} diverged: lower its learning rate"
            )
        observed = self._observed_accuracies(data, model)
        if not observed:
            return self._not_known(self.published(model, strategy, data, min_quality=min_quality))
        posterior = self._condition(model, strategy, self._level(model, data), observed)
        value = min(max(posterior.value, _majority(model, data)), _HIGHEST_ACCURACY)
        basis: Basis = "measured" if strategy.method in observed else "transferred"
        return QualityEstimate(
            model.traits.metric, value, posterior.interval(value), _p_at_least(min_quality, value, posterior),
            self.certified, self._reason(model, strategy, observed), "extrapolated", basis,
        )  # fmt: skip

    def _not_known(self, published: QualityEstimate) -> QualityEstimate:
        """The answer as long as nothing was learned from the task itself; a minimum is answered from published runs, as
        wide as they lie.
        """
        unknown = replace(published, value=None, interval=None)
        if self.evidence is not None and self.evidence.at_chance:
            return replace(
                unknown,
                evidence="onset not reached",
                reason=f"onset not reached: {self.evidence.at_chance_in_words} stayed at chance level, which says "
                "nothing about the full run; give more time",
            )
        low, high = (published.interval.low, published.interval.high) if published.interval else (0.0, 1.0)
        reason = f"not known before a look at the task (published runs of such models: {low:.2f} to {high:.2f})"
        return replace(unknown, reason=f"{reason}; --evidence takes one")

    # --- accuracy over the probe ------------------------------------------------------------------------------------

    def _from_probe(
        self,
        probe: LinearProbeReport,
        set_ups: SetUpModel,
        model: ModelSpec,
        strategy: StrategyConfig,
        data: DataProfile,
        min_quality: float | None,
        batch_size: int,
    ) -> QualityEstimate:
        """What training usually makes of what the probe found, and what short runs of the task showed."""
        metric = model.traits.metric
        if self.evidence is not None and self.evidence.diverged(strategy.method):
            return _abstain(metric, f"the short run of {strategy.method} diverged: lower its learning rate")

        def set_up(of: StrategyConfig, rows: int) -> SetUp:
            steps = max(1, math.ceil(rows / batch_size * of.num_train_epochs))
            return set_up_of(
                probe, of, train_rows=rows, steps=steps, batch_size=batch_size, parameters=model.total_parameters
            )

        runs = [] if self.evidence is None else [run for run in self.evidence.runs if run.usable]
        told = [
            FinishedRun(set_up(run.strategy, run.train_rows), run.accuracy, run.eval_rows)
            for run in runs
            if run.accuracy is not None and not run.at_chance
        ]
        predicted = set_ups.predict(set_up(strategy, data.train_rows), told)
        low, high = predicted.value - predicted.half_width, predicted.value + predicted.half_width
        sd = predicted.half_width / NORMAL_95
        own = any(run.strategy.method == strategy.method and not run.at_chance for run in runs)
        where = "between" if predicted.inside else "outside of"
        reason = f"the linear probe reached {probe.value:.3f}; the set-up lies {where} {set_ups.runs} recorded runs"
        reason += f" of {set_ups.sources} collections" + (f"; corrected by {len(told)} short runs" if told else "")
        parts = {"most frequent class": probe.chance_value} | dict(predicted.parts[:PARTS_SHOWN])
        parts["other terms"] = predicted.value - sum(parts.values())
        return QualityEstimate(
            metric, predicted.value, Interval(max(low, 0.0), min(high, 1.0), 0.9),
            _p_at_least(min_quality, predicted.value, _Posterior(predicted.value, sd, sd)), False, reason,
            "interpolated" if predicted.inside else "extrapolated",
            "measured" if own else "transferred", parts,
            _curve(set_ups, lambda epochs: set_up(replace(strategy, num_train_epochs=epochs), data.train_rows), told,
                   strategy.num_train_epochs),
        )  # fmt: skip

    @property
    def certified(self) -> bool:
        """Whether enough finished tasks stand behind the level of the intervals."""
        return self.prior.finished_tasks >= CERTIFYING_TASKS

    def _observed_accuracies(self, data: DataProfile | None, model: ModelSpec) -> dict[str, curves.Extrapolation]:
        if self.evidence is None:
            return {}
        counts = list(data.class_counts.values()) if data and data.class_counts else [1] * max(model.num_labels, 2)
        chance = curves.chance_loss(counts)
        runs = [run for run in self.evidence.runs if run.usable and run.accuracy is not None and not run.at_chance]
        if not runs:
            return {}
        gamma = curves.fit_gamma(runs, max(counts) / sum(counts), chance)
        return {
            method: curves.extrapolate_accuracy(self.evidence.of(method), chance_loss=chance, gamma=gamma)
            for method in dict.fromkeys(run.strategy.method for run in runs)
        }

    def _condition(
        self, model: ModelSpec, strategy: StrategyConfig, level: Level, observed: dict[str, curves.Extrapolation]
    ) -> _Posterior:
        """Normal conditioning of (level, gaps) on the extrapolated runs, plus the noise of the final run."""
        methods = [*observed, *([strategy.method] if strategy.method not in observed else [])]
        gaps = [self._gap(model, method, strategy if method == strategy.method else None) for method in methods]
        level_sd = level.interval.half_width / NORMAL_95
        mean = np.array([level.accuracy + gap.mean_points / 100 for gap in gaps])
        covariance = np.full((len(methods), len(methods)), level_sd**2) + np.diag(
            [(gap.sd_points / 100) ** 2 for gap in gaps]
        )
        seen = len(observed)
        errors = np.diag([item.sd**2 + self.prior.seed_sd**2 for item in observed.values()])
        gain = covariance[:, :seen] @ np.linalg.inv(covariance[:seen, :seen] + errors)
        mean = mean + gain @ (np.array([item.value for item in observed.values()]) - mean[:seen])
        covariance = covariance - gain @ covariance[:seen, :]
        index = methods.index(strategy.method)
        value = float(mean[index])
        final = self._final_variance(value)
        sd = math.sqrt(max(float(covariance[index, index]), 0.0) + final)
        return _Posterior(value, sd, sd)

    def _final_variance(self, accuracy: float) -> float:
        """Of the final run around its expectation: its seed, and the sampling of its held-out items."""
        rows = self.evidence.target_eval_rows if self.evidence else 0
        share = min(max(accuracy, 0.01), 0.99)
        return self.prior.seed_sd**2 + (share * (1 - share) / rows if rows else 0.0)

    def _reason(self, model: ModelSpec, strategy: StrategyConfig, observed: dict[str, curves.Extrapolation]) -> str:
        if strategy.method in observed and self.evidence is not None:
            runs, item = self.evidence.of(strategy.method), observed[strategy.method]
            rows = ", ".join(str(run.train_rows) for run in runs)
            return (
                f"short runs of {strategy.method} on {rows} of {runs[-1].target_train_rows} rows reached "
                f"{runs[-1].accuracy:.3f}; the loss curve adds {item.increment:+.3f}"
            )
        gap = self._gap(model, strategy.method, strategy)
        tables = self.prior.gaps.tables_behind(strategy.method)
        against = f"{gap.mean_points:+.1f} points against full fine-tuning in {tables} published tables"
        return f"level of the task from short runs of {', '.join(observed)}; {strategy.method} {against}"

    # --- what follows from the loss -------------------------------------------------------------------------------

    def _following_loss(self, model: ModelSpec, strategy: StrategyConfig, min_quality: float | None) -> QualityEstimate:
        evidence, metric = self.evidence, model.traits.metric
        of_loss, to_loss = metric.from_loss or same, metric.to_loss or same
        if evidence is None or not evidence.methods:
            return _abstain(metric, f"{metric.title} depends on the text; use --evidence to estimate it")
        if evidence.diverged(strategy.method):
            return _abstain(metric, f"the short run of {strategy.method} diverged: lower its learning rate")
        own = strategy.method in evidence.methods
        method = strategy.method if own else evidence.methods[0]
        item = curves.extrapolate_loss(evidence.of(method))
        gap, other = self._gap(model, strategy.method, strategy), self._gap(model, method)
        shift = 0.0 if own else (gap.mean_points - other.mean_points) / 100
        spread = 0.0 if own else math.hypot(gap.sd_points, other.sd_points) / 100
        loss = item.value * math.exp(-shift)
        sd = math.hypot(item.sd, loss * spread, loss * curves.LOSS_NOISE)
        low, high = of_loss(max(loss - NORMAL_95 * sd, 0.0)), of_loss(loss + NORMAL_95 * sd)
        wanted = None if min_quality is None else normal_cdf((to_loss(min_quality) - loss) / sd)
        source = "short runs" if own else f"short runs of {method}"
        reason = f"{source}, largest on {evidence.of(method)[-1].train_rows} rows"
        return QualityEstimate(
            metric, of_loss(loss), Interval(low, high, 0.9), wanted, self.certified, reason,
            "extrapolated", "measured" if own else "transferred",
        )  # fmt: skip


CURVE_EPOCHS = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0)
"""Where the expected metric is given as a function of epochs, as far as runs of so many steps were recorded."""


def _curve(
    set_ups: SetUpModel, set_up_of_epochs: Callable[[float], SetUp], runs: Sequence[FinishedRun], planned: float
) -> tuple[QualityPoint, ...]:
    """The metric after other numbers of epochs: those whose steps were recorded, and the planned one."""
    points = []
    for epochs in sorted({*CURVE_EPOCHS, planned}):
        asked = set_up_of_epochs(epochs)
        if epochs != planned and not set_ups.steps_were_recorded(asked):
            continue
        found = set_ups.predict(asked, runs)
        low, high = max(found.value - found.half_width, 0.0), min(found.value + found.half_width, 1.0)
        evidence: Evidence = "interpolated" if found.inside else "extrapolated"
        points.append(QualityPoint(epochs, asked.steps, found.value, Interval(low, high, 0.9), evidence))
    return tuple(points)


PARTS_SHOWN = 4
"""Terms of a prediction that are listed; the others are added up."""

_UNKNOWN_ROWS = 10_000
"""Training rows assumed when no data set is named: the middle of the published tables."""

_HIGHEST_ACCURACY = 0.995
"""No published table of the prior reaches more; a sum of level and gap could."""


def _majority(model: ModelSpec, data: DataProfile | None) -> float:
    """Accuracy of always answering the most frequent class."""
    return (data.majority_share if data else None) or 1 / max(model.num_labels, 2)


def _task_type(model: ModelSpec) -> Comparisons:
    return model.traits.comparisons or "language-modelling"


def _prior_only(level: Level, gap: Gap) -> _Posterior:
    low = (level.accuracy - level.interval.low) / NORMAL_95
    high = (level.interval.high - level.accuracy) / NORMAL_95
    sd = gap.sd_points / 100
    return _Posterior(level.accuracy + gap.mean_points / 100, math.hypot(low, sd), math.hypot(high, sd))


def _p_at_least(minimum: float | None, value: float, posterior: _Posterior) -> float | None:
    if minimum is None:
        return None
    sd = posterior.high_sd if minimum > value else posterior.low_sd
    return 1 - normal_cdf((minimum - value) / sd)


def _abstain(metric: Metric, reason: str) -> QualityEstimate:
    return QualityEstimate(metric, None, None, None, False, reason, "extrapolated", "prior")
