"""Fitting what a card reaches to a handful of steps whose truth is known, and the profile that comes of it."""

from __future__ import annotations

import dataclasses
import random

import pytest

from advisor.calibration.datasheet import (
    TimedStep,
    fitted_profile,
)
from advisor.core.errors import InputError
from advisor.costmodel.time.device_rates import Efficiencies, datasheet_efficiencies
from advisor.costmodel.time.step import HOST_RATE_KEY, step_time
from advisor.hardware import load_profile
from advisor.tracing.ops import TracedOp
from tests.calibration.timed import fit_efficiencies, spread_steps, step_seconds

CARD = load_profile("a100-sxm4-80gb", fitted=False)
TRUTH = Efficiencies(0.72, 0.5, 0.5, 60e-6)


def step(tokens: int, layers: int = 32, truth: Efficiencies = TRUTH, noise: float = 1.0) -> TimedStep:
    width = 4096
    weights = 2 * width * width
    operators = (
        TracedOp("mm.default", "forward", 2 * tokens * width * width, weights + 2 * tokens * width, 2 * tokens * width,
                 "bfloat16", count=12 * layers),
        TracedOp("_flash_attention_forward.causal", "forward", 4 * tokens * 2048 * width, 6 * tokens * width,
                 2 * tokens * width, "bfloat16", count=layers),
        TracedOp("mul.Tensor", "forward", 0, 4 * tokens * width, 2 * tokens * width, "bfloat16", count=80 * layers),
    )  # fmt: skip
    timed = TimedStep(operators, 1.0)
    return dataclasses.replace(timed, seconds=step_seconds(timed, CARD, truth) * noise)


STEPS = [step(tokens, layers) for tokens in (256, 1024, 4096, 16384, 65536) for layers in (16, 40)]


def test_ten_steps_of_a_slower_machine_tell_an_eleventh() -> None:
    fitted = fit_efficiencies(STEPS, CARD)
    unseen = step(8192, 28)
    assert step_seconds(unseen, CARD, fitted) == pytest.approx(unseen.seconds, rel=0.03)
    assumed = dataclasses.replace(datasheet_efficiencies(CARD), host_s_per_operator=25e-6)
    assert step_seconds(unseen, CARD, assumed) != pytest.approx(unseen.seconds, rel=0.05)
    assert fitted.samples == 10
    assert fitted.host_s_per_operator == pytest.approx(60e-6, rel=0.1)


def test_what_the_steps_do_not_show_stays_as_assumed() -> None:
    assumed = datasheet_efficiencies(CARD)
    long_steps = [step(65536, layers, assumed) for layers in (16, 32, 48)]
    fitted = fit_efficiencies(long_steps, CARD)
    assert fitted.host_s_per_operator == pytest.approx(25e-6, rel=0.05)
    assert fitted.gemm == pytest.approx(assumed.gemm, rel=0.05)


def test_one_wild_step_does_not_decide() -> None:
    chance = random.Random(2)
    steps = [dataclasses.replace(s, seconds=s.seconds * chance.uniform(0.97, 1.03)) for s in STEPS]
    steps[3] = dataclasses.replace(steps[3], seconds=3 * steps[3].seconds)
    unseen = step(8192, 28)
    predicted = step_seconds(unseen, CARD, fit_efficiencies(steps, CARD))
    assert predicted == pytest.approx(unseen.seconds, rel=0.12)


def test_the_fitted_card_predicts_what_the_fit_predicts() -> None:
    fitted = fit_efficiencies(STEPS, CARD)
    profile = fitted_profile(CARD, fitted)
    unseen = step(8192, 28)
    predicted = step_time(unseen.operators, profile)
    assert predicted.seconds == pytest.approx(step_seconds(unseen, CARD, fitted), rel=1e-6)
    assert predicted.basis == "transferred"
    assert predicted.low < unseen.seconds < predicted.high
    assert predicted.high / predicted.seconds < 1.3, "fitted, so narrower than a datasheet's"
    assert "fitted to 10 measured steps" in profile.flops_per_s["bfloat16"].source
    assert profile.overhead_s[HOST_RATE_KEY].value == fitted.host_s_per_operator


def test_the_chosen_steps_differ() -> None:
    chosen = spread_steps(STEPS, CARD, 4)
    assert len(set(chosen)) == 4
    assert chosen == spread_steps(STEPS, CARD, 4)
    seconds = [STEPS[index].seconds for index in chosen]
    assert max(seconds) == max(s.seconds for s in STEPS)
    assert max(seconds) > 30 * min(seconds)
    assert sorted(spread_steps(STEPS, CARD, 99)) == list(range(len(STEPS)))


def test_what_cannot_be_fitted_is_refused() -> None:
    with pytest.raises(InputError, match="at least one step"):
        fit_efficiencies([], CARD)
    with pytest.raises(InputError, match="positive"):
        fit_efficiencies([dataclasses.replace(STEPS[0], seconds=0.0)], CARD)
    with pytest.raises(InputError, match="fitted"):
        fit_efficiencies(STEPS, fitted_profile(CARD, TRUTH))
