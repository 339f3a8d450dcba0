"""A configuration that the calibration measured is answered by its measurement."""

from __future__ import annotations

import dataclasses

import pytest

from advisor.core.coefficients import Calibration, StepPoint
from advisor.core.model import ModelSpec
from advisor.core.plan import ExecutionPlan
from advisor.core.strategy import StrategyConfig
from advisor.costmodel.time.operator_times import configuration_key
from advisor.costmodel.time.step import measured_step
from advisor.strategies import get_strategy
from advisor.strategies.lora import LoraKnobs

MODEL = ModelSpec("m", "config", "sequence-classification", {}, "bert", 10**7, 384, 6, 30522, 512)
STRATEGY = StrategyConfig("lora", 1e-3, knobs=LoraKnobs())
EXECUTION = ExecutionPlan(8, max_seq_length=64)
KEY = configuration_key(MODEL, STRATEGY, EXECUTION, 64)


def point(*times_s: float, configuration: str = KEY) -> StepPoint:
    return StepPoint("bert", "lora", "plain", 8, 64, times_s, (), configuration=configuration)


def calibration(*points: StepPoint) -> Calibration:
    return Calibration("cpu-x-2c", {}, "", {}, points=points)


@pytest.mark.parametrize(
    "other",
    [
        (STRATEGY.replaced(rank=16), EXECUTION, 64),
        (STRATEGY.replaced(target_modules="all-linear"), EXECUTION, 64),
        (STRATEGY, dataclasses.replace(EXECUTION, micro_batch_size=16), 64),
        (STRATEGY, dataclasses.replace(EXECUTION, padded=False), 64),
        (STRATEGY, dataclasses.replace(EXECUTION, num_threads=1), 64),
        (STRATEGY, dataclasses.replace(EXECUTION, gradient_accumulation_steps=2), 64),
        (STRATEGY, EXECUTION, 72),
    ],
)
def test_whatever_changes_the_step_changes_the_key(other: tuple[StrategyConfig, ExecutionPlan, int]) -> None:
    assert configuration_key(MODEL, *other) != KEY
    assert measured_step(calibration(point(0.1, 0.1)), configuration_key(MODEL, *other)) is None


@pytest.mark.parametrize(
    ("method", "knobs", "key"),
    [
        ("full", {}, "0b5c54483b4fda50"),
        ("lora", {"rank": 8, "lora_alpha": 16, "lora_dropout": 0.1, "target_modules": ("q", "v")}, "caec7d61031ae537"),
        ("partial", {"unfrozen_layers": 2}, "6a7603dbc24981ca"),
    ],
)
def test_keys_of_stored_calibrations_stay(method: str, knobs: dict[str, object], key: str) -> None:
    """As the code wrote them whose configurations had the knobs of all methods as fields."""
    strategy = StrategyConfig(method, 1e-3, knobs=get_strategy(method).knobs(**knobs))
    assert configuration_key(MODEL, strategy, EXECUTION, 64) == key


def test_what_a_step_does_not_depend_on_does_not() -> None:
    learned = STRATEGY.replaced(learning_rate=1e-5, num_train_epochs=1, warmup_ratio=0.5, lora_alpha=99)
    run = dataclasses.replace(EXECUTION, max_seq_length=512, eval_batch_size=4, group_by_length=True)
    assert configuration_key(MODEL, learned, run, 64) == KEY


def test_the_median_of_the_repeats_is_the_answer() -> None:
    step = measured_step(calibration(point(0.10, 0.11, 0.10, 0.12, 0.10), point(9.0, configuration="other")), KEY)
    assert step is not None
    assert (step.seconds, step.basis, step.evidence) == (0.10, "measured", "measured")
    assert 0.07 < step.low < 0.095
    noisy = measured_step(calibration(point(0.10, 0.2, 0.05, 0.15, 0.07)), KEY)
    assert noisy is not None
    assert noisy.low / noisy.seconds < step.low / step.seconds


def test_times_of_other_versions_are_no_measurement() -> None:
    known = dataclasses.replace(calibration(point(0.1, 0.1)), transferred=("torch: calibrated with 1, now 2",))
    assert measured_step(known, KEY) is None
    assert measured_step(None, KEY) is None
    assert measured_step(calibration(point(0.1, configuration="")), KEY) is None
