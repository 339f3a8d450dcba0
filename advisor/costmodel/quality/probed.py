"""Expected quality where the task was probed: the probe's own figure is measured, the others follow from it."""

from __future__ import annotations

import dataclasses

from advisor.core.cost import QualityEstimate
from advisor.core.data import DataProfile
from advisor.core.linear_probe import LinearProbeReport
from advisor.core.model import ModelSpec
from advisor.core.stats import NORMAL_95, normal_cdf
from advisor.core.strategy import StrategyConfig
from advisor.costmodel.quality.evidence import QualityEvidence
from advisor.costmodel.quality.model import USUAL_BATCH_SIZE, QualityModel, QualityPrior
from advisor.costmodel.quality.setup_model import SetUpModel
from advisor.strategies import get_strategy


class ProbedQuality(QualityModel):
    """A quality model that knows what a linear probe of this very task reached.

    Args:
        report: Of the probe.
        prior, evidence, set_ups: As in ``QualityModel``.
    """

    def __init__(
        self,
        report: LinearProbeReport,
        prior: QualityPrior | None = None,
        evidence: QualityEvidence | None = None,
        set_ups: SetUpModel | None = None,
    ) -> None:
        super().__init__(prior, evidence, report, set_ups)
        self.report = report

    def estimate(
        self,
        model: ModelSpec,
        strategy: StrategyConfig,
        data: DataProfile | None,
        *,
        min_quality: float | None = None,
        batch_size: int = USUAL_BATCH_SIZE,
    ) -> QualityEstimate:
        found = super().estimate(model, strategy, data, min_quality=min_quality, batch_size=batch_size)
        if not self._probed(model, strategy):
            return found
        report = self.report
        sd = report.interval.half_width / NORMAL_95
        return dataclasses.replace(
            found,
            value=report.value,
            interval=report.interval,
            p_at_least=None if min_quality is None else 1 - normal_cdf((min_quality - report.value) / sd),
            reason=f"the probe reached it on {report.eval_rows:,} held-out rows, from {report.train_rows:,} of "
            f"{report.all_train_rows:,} training rows",
            evidence="measured" if report.complete else "extrapolated",
            basis="measured",
            parts={"linear probe": report.value},
        )

    def caution(self, model: ModelSpec, strategy: StrategyConfig) -> float:
        return 0.0 if self._probed(model, strategy) else super().caution(model, strategy)

    def _probed(self, model: ModelSpec, strategy: StrategyConfig) -> bool:
        """Whether the report is about this very method."""
        method = get_strategy(strategy.method)
        alike = method.fits_frozen_features and method.pooling(strategy) == self.report.pooling
        return alike and model.traits.metric.name == self.report.metric.name
