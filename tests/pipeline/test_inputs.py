"""From what the user named to a model and a length."""

from __future__ import annotations

from pathlib import Path

import pytest

from advisor.core.errors import InputError
from advisor.pipeline.inputs import ModelSource, check_length
from tests.core.records import model_spec


def test_sequences_must_fit_the_positions() -> None:
    check_length(model_spec(), 128)
    check_length(model_spec(max_positions=None), 10**6)
    with pytest.raises(InputError, match="at most the 128 positions"):
        check_length(model_spec(), 129)


def test_predict_chooses_an_attention_kernel_that_the_architecture_has() -> None:
    from advisor import predict

    config = Path(__file__).parents[1] / "fixtures" / "configs" / "deberta-v3-base.json"
    cost = predict(
        ModelSource(str(config), "sequence-classification"),
        method="head",
        device="t4",
    )
    assert cost.fits
    assert cost.total_parameters == 184_423_682
