"""Rules that the records themselves hold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.core.cost import Interval
from advisor.core.strategy import StrategyConfig
from tests.core.records import cost_estimate, data_profile


@given(st.floats(-1e9, 1e9), st.floats(0, 1e9), st.floats(0, 1))
def test_an_interval_holds_what_lies_between_its_ends(low: float, width: float, share: float) -> None:
    interval = Interval(low, low + width)
    assert interval.contains(interval.low)
    assert interval.contains(interval.high)
    assert not interval.contains(interval.high + 1 + abs(interval.high))
    assert interval.half_width >= 0


def test_an_interval_upside_down_is_refused() -> None:
    with pytest.raises(ValueError, match="low <= high must hold, but got low=2, high=1"):
        Interval(2, 1)


def test_the_breakdown_adds_up() -> None:
    memory = cost_estimate().memory
    assert memory.breakdown.total_bytes == memory.device_bytes


def test_majority_share_and_labels() -> None:
    profile = data_profile()
    assert profile.majority_share == pytest.approx(5 / 9)
    assert profile.label_names == ("negative", "positive")
    assert data_profile(class_counts={}).majority_share is None


def test_mean_length_is_the_integral_of_the_quantiles() -> None:
    assert data_profile(token_length_quantiles=(7,)).mean_tokens() == 7
    assert data_profile(token_length_quantiles=(0, 10)).mean_tokens() == 5
    assert data_profile(token_length_quantiles=(4, 10, 20, 40)).mean_tokens() == pytest.approx((7 + 15 + 30) / 3)


def test_all_wrong_knobs_of_a_strategy_are_named() -> None:
    with pytest.raises(ValueError) as refused:
        StrategyConfig("lora", learning_rate=0, max_grad_norm=-1, num_train_epochs=-1)
    for name in ("learning_rate", "max_grad_norm", "num_train_epochs"):
        assert name in str(refused.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_run_ends_and_has_a_learning_rate(value: float) -> None:
    for name in ("learning_rate", "num_train_epochs"):
        with pytest.raises(ValueError, match=name):
            StrategyConfig("lora", **{"learning_rate": 1e-3, name: value})
    with pytest.raises(ValueError, match="max_grad_norm"):
        StrategyConfig("lora", learning_rate=1e-3, max_grad_norm=float("nan"))
