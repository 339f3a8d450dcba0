"""A strategy of another distribution is used like a built-in one."""

from __future__ import annotations

import pytest

from advisor.strategies import get_strategy, strategy_names


@pytest.mark.usefixtures("plugin")
def test_an_installed_strategy_is_listed_last() -> None:
    assert strategy_names()[-1] == "layer_block"
    assert get_strategy("layer_block").title == "layer-block fine-tuning"


def test_nothing_is_left_of_it() -> None:
    assert "layer_block" not in strategy_names()
