"""The prior does not promise what a handful of steps cannot keep."""

from __future__ import annotations

from advisor.core.strategy import StrategyConfig
from advisor.costmodel.quality.model import FEW_EXAMPLES, QualityModel
from advisor.strategies.lora import LoraKnobs
from tests.core.records import data_profile, model_spec


def test_few_examples_reach_down_to_the_majority_share() -> None:
    strategy = StrategyConfig("lora", 1e-3, num_train_epochs=1, knobs=LoraKnobs())
    few = data_profile(train_rows=640)
    estimate = QualityModel().published(model_spec(), strategy, few)
    assert estimate.interval is not None and few.majority_share is not None
    assert estimate.interval.low <= few.majority_share + 1e-9
    enough = QualityModel().published(model_spec(), strategy, data_profile(train_rows=FEW_EXAMPLES))
    assert enough.interval is not None
    assert enough.interval.low > few.majority_share
