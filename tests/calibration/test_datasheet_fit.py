"""Holding steps back in turn: what it says of a fit, and what intervals make of it."""

from __future__ import annotations

import dataclasses
import random

import pytest

from advisor.calibration.datasheet import (
    NOISE,
    TimedStep,
    assumed_efficiencies,
    fit_datasheet,
    fitted_profile,
)
from advisor.core.errors import InputError
from advisor.costmodel.time.device_rates import Efficiencies
from advisor.costmodel.time.step import fitted_half_width, step_time
from tests.calibration.test_datasheet_efficiencies import CARD, STEPS, TRUTH, step
from tests.calibration.timed import fit_efficiencies, step_seconds


def noisy(steps: list[TimedStep], most: float, seed: int = 1) -> list[TimedStep]:
    chance = random.Random(seed)
    return [dataclasses.replace(s, seconds=s.seconds * chance.uniform(1 - most, 1 + most)) for s in steps]


def test_a_step_held_back_takes_no_part() -> None:
    steps = noisy(STEPS[:4], 0.05)
    fit = fit_datasheet(steps, CARD)
    without_second = fit_efficiencies([steps[0], *steps[2:]], CARD)
    assert fit.steps[1].held_back_s == pytest.approx(step_seconds(steps[1], CARD, without_second), rel=1e-6)
    with_all = fit_efficiencies(steps, CARD)
    assert fit.steps[1].fitted_s == pytest.approx(step_seconds(steps[1], CARD, with_all), rel=1e-6)
    assert [s.measured_s for s in fit.steps] == [s.seconds for s in steps]


def test_the_fit_tells_unseen_steps_better_than_the_datasheet() -> None:
    fit = fit_datasheet(noisy(STEPS, 0.03), CARD)
    assert fit.held_back is not None
    assert fit.held_back.median < 0.05 < 0.10 < fit.datasheet.median
    assert fit.held_back.median <= fit.held_back.worst
    assert fit.assumed.host_s_per_operator > 0
    assert fit.fitted.bandwidth == pytest.approx(TRUTH.bandwidth, rel=0.15)


def test_steps_that_contradict_each_other_widen_the_interval() -> None:
    calm, wild = (fit_datasheet(noisy(STEPS, most), CARD).fitted for most in (0.02, 0.4))
    assert fitted_half_width(calm.device_relative) < 0.12
    assert fitted_half_width(wild.device_relative) > 2 * fitted_half_width(calm.device_relative)


def test_most_unseen_steps_are_inside_their_interval() -> None:
    inside = total = 0
    for seed in range(12):
        measured = noisy(STEPS, 0.06, seed)
        known, unseen = measured[::2], measured[1::2]
        profile = fitted_profile(CARD, fit_datasheet(known, CARD).fitted)
        for s in unseen:
            predicted = step_time(s.operators, profile)
            inside += predicted.low <= s.seconds <= predicted.high
            total += 1
    assert inside / total > 0.85


@pytest.mark.parametrize("number", [1, 2])
def test_few_steps_correct_the_card_but_promise_little(number: int) -> None:
    fit = fit_datasheet([step(65536), step(16384)][:number], CARD)
    assert fit.steps[0].fitted_s == pytest.approx(fit.steps[0].measured_s, rel=0.05)
    assert fitted_half_width(fit.fitted.device_relative) >= 0.35
    assert fitted_half_width(fit.fitted.host_relative) > 0.35
    assert (fit.held_back is None) == (number == 1)
    assert (fit.steps[0].held_back_s is None) == (number == 1)


def test_a_host_that_no_step_waits_for_stays_uncertain() -> None:
    busy = fit_datasheet([step(65536, layers) for layers in (8, 16, 24, 32, 40)], CARD).fitted
    waiting = fit_datasheet(STEPS, CARD).fitted
    assert busy.host_relative > 0.5 > 0.2 > waiting.host_relative
    profile = fitted_profile(CARD, busy)
    short, long = (step_time(step(tokens).operators, profile) for tokens in (64, 65536))
    assert short.high / short.seconds > 1.5 > 1.2 > long.high / long.seconds


def test_a_device_that_no_step_waits_for_stays_uncertain() -> None:
    slow_host = Efficiencies(0.8, 0.7, 0.6, 5e-4)
    fitted = fit_datasheet([step(tokens, 2, slow_host) for tokens in (8, 16, 32, 64)], CARD).fitted
    assert fitted.host_s_per_operator > 10 * assumed_efficiencies(CARD).host_s_per_operator
    assert fitted.device_relative == pytest.approx(0.2, rel=0.05), "what is assumed of attention and bandwidth"


def test_nothing_is_surer_than_a_measurement() -> None:
    fitted = fit_datasheet(STEPS, CARD).fitted
    assert fitted.residual_relative >= NOISE
    assert fitted.device_relative >= NOISE


def test_a_fitted_card_is_not_fitted_again() -> None:
    with pytest.raises(InputError, match="fitted"):
        fit_datasheet(STEPS, fitted_profile(CARD, TRUTH))
    with pytest.raises(InputError, match="at least one"):
        fit_datasheet([], CARD)
