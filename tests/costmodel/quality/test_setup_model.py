"""Accuracy of a set-up from a linear probe: onset, intervals, conditioning on short runs, states."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from advisor.core.cost import Interval
from advisor.core.data import DataProfile
from advisor.core.linear_probe import LinearProbeReport
from advisor.core.metrics import ACCURACY
from advisor.core.model import ModelSpec
from advisor.core.serialization import from_dict, to_dict
from advisor.core.strategy import StrategyConfig
from advisor.costmodel.quality.evidence import EvidenceRun, QualityEvidence
from advisor.costmodel.quality.model import QualityModel
from advisor.costmodel.quality.probed import ProbedQuality
from advisor.costmodel.quality.setup_model import FinishedRun, SetUp, SetUpModel, default_set_up_model
from advisor.strategies import get_strategy, strategy_names
from advisor.strategies.lora import LoraKnobs
from tests.core.records import data_profile, model_spec

MINILM = 22_700_000


def set_up(**changes) -> SetUp:
    usual = SetUp(0.76, 0.5, 0.75, 2, 1024, 128, 8, 1.0, "lora", 8, MINILM)
    return replace(usual, **changes)


def model(**changes) -> SetUpModel:
    """Skill is gained with the onset, and a fifth of the room above."""
    names = ("skill, early onset", "room above the probe")
    usual = SetUpModel(
        names, (1.0, 0.2), ((0.01, 0.0), (0.0, 0.01)), 0.03, 0.03, 2.0, 0.01,
        {"steps": (4.0, 8.0), "learning rate": (-1.0, 3.0), "rows": (6.0, 11.0), "parameters": (12.2, 12.3)}, 100, 12,
    )  # fmt: skip
    return replace(usual, **changes)


def probe(value: float = 0.76, *, rows: int = 1024) -> LinearProbeReport:
    return LinearProbeReport(
        ACCURACY, value, Interval(value - 0.03, value + 0.03), 0.52, math.log(2), 0.5, (), 0.53, 0.01, "mean", 384,
        rows, 500, rows, 500, {"bad": 0.5, "good": 0.5},
    )  # fmt: skip


def task() -> tuple[ModelSpec, DataProfile]:
    return replace(model_spec(), total_parameters=MINILM), data_profile(train_rows=1024)


def lora_for(epochs: float) -> StrategyConfig:
    return StrategyConfig("lora", 1e-3, num_train_epochs=epochs, knobs=LoraKnobs())


def test_a_run_starts_at_chance_and_rises_with_its_steps() -> None:
    values = [model().predict(set_up(steps=steps)).value for steps in (1, 8, 32, 128, 512, 4096)]
    assert values == sorted(values)
    assert values[0] == pytest.approx(0.5, abs=0.02) and values[-1] > 0.76
    assert model().predict(set_up(probe=0.49)).value == pytest.approx(0.5, abs=0.11)


def test_a_set_up_outside_of_the_recorded_ones_says_so_and_has_a_wider_interval() -> None:
    inside, outside = model().predict(set_up()), model().predict(set_up(steps=2048))
    larger = model().predict(set_up(parameters=7_000_000_000))
    assert inside.inside and not outside.inside and not larger.inside
    assert outside.half_width > 1.4 * inside.half_width


def test_the_parts_add_up() -> None:
    found = model().predict(set_up())
    assert 0.5 + sum(part for _, part in found.parts) == pytest.approx(found.value)
    told = model().predict(set_up(), [FinishedRun(set_up(steps=32), 0.7, 400)])
    assert dict(told.parts)["short runs"] > 0
    assert 0.5 + sum(part for _, part in told.parts) == pytest.approx(told.value)


def test_a_run_of_the_task_corrects_the_level_and_narrows_the_interval() -> None:
    before = model().predict(set_up())
    low = model().predict(set_up(), [FinishedRun(set_up(steps=64), 0.55, 400)])
    high = model().predict(set_up(), [FinishedRun(set_up(steps=64), 0.85, 400)])
    assert low.value < before.value < high.value
    assert low.half_width < before.half_width


def test_the_shipped_model_knows_every_strategy_and_is_ordinary_json() -> None:
    shipped = default_set_up_model()
    assert shipped is not None and shipped.runs >= 60 and shipped.sources >= 8
    assert from_dict(SetUpModel, to_dict(shipped), what="the model") == shipped
    for method in strategy_names():
        found = shipped.predict(set_up(method=method))
        assert 0.5 <= found.value <= 1 and 0.02 < found.half_width < 0.5, method


def test_a_probe_gives_every_method_an_estimate_with_its_state_and_parts() -> None:
    spec, data = task()
    quality = QualityModel(probe=probe(), set_ups=model())
    lora = lora_for(1)
    found = quality.estimate(spec, lora, data, min_quality=0.7, batch_size=8)
    assert found.value is not None and found.interval is not None and found.interval.contains(found.value)
    assert (found.evidence, found.basis) == ("interpolated", "transferred")
    assert found.p_at_least is not None and 0.5 < found.p_at_least < 1
    assert sum(found.parts.values()) == pytest.approx(found.value)
    longer = quality.estimate(spec, lora_for(30), data, batch_size=8)
    assert longer.evidence == "extrapolated" and longer.value is not None and longer.value > found.value


def test_the_probe_itself_is_measured() -> None:
    spec, data = task()
    name = next(name for name in strategy_names() if get_strategy(name).fits_frozen_features)
    found = ProbedQuality(probe(), set_ups=model()).estimate(
        spec, get_strategy(name).default_config(spec), data, min_quality=0.7
    )
    assert (found.value, found.evidence, found.basis) == (0.76, "measured", "measured")
    assert found.p_at_least is not None and found.p_at_least > 0.95


def short_run(accuracy: float) -> EvidenceRun:
    return EvidenceRun(lora_for(1), 256, 1024, 400, 0.69, accuracy, 9.0, "completed", chance_accuracy=0.5)


def test_a_run_at_chance_level_is_no_evidence() -> None:
    spec, data = task()
    lora = lora_for(1)
    assert short_run(0.53).at_chance and not short_run(0.58).at_chance
    alone = QualityModel(evidence=QualityEvidence((short_run(0.53),))).estimate(spec, lora, data)
    assert (alone.value, alone.evidence) == (None, "onset not reached")
    assert "lora on 256 rows" in alone.reason
    beside = QualityModel(probe=probe(), set_ups=model(), evidence=QualityEvidence((short_run(0.53),)))
    untold = QualityModel(probe=probe(), set_ups=model())
    assert beside.estimate(spec, lora, data).value == untold.estimate(spec, lora, data).value
    told = QualityModel(probe=probe(), set_ups=model(), evidence=QualityEvidence((short_run(0.80),)))
    assert told.estimate(spec, lora, data).basis == "measured"
    assert told.estimate(spec, lora, data).value > untold.estimate(spec, lora, data).value
