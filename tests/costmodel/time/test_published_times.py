"""Step times of cards that are not here, against what other people measured; the figures stand in ``published/``."""

from __future__ import annotations

import dataclasses
import random
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

from advisor.calibration.datasheet import (
    fit_datasheet,
    fitted_profile,
)
from advisor.core.errors import InputError
from advisor.costmodel.model import CostModel
from advisor.costmodel.time.operator_times import OperatorClock
from advisor.costmodel.time.step import step_time
from advisor.hardware import load_profile
from advisor.strategies import registry
from tests.calibration.timed import fit_efficiencies, spread_steps, step_seconds, step_total
from tests.costmodel.published import qwen, qwen_kernels
from tests.costmodel.published.timed import (
    GPTQ_LORA,
    Outcome,
    StepPredictor,
    Timed,
    errors,
    method_order,
    one_card,
    qwen_profile,
    several_cards,
    table,
)
from tests.costmodel.published.timed import step_seconds as predicted_step

FITTED_ON = 10
SMALL_STEP_TOKENS = 1024
"""Of a micro-batch; up to here launching operators counts beside running them."""


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory, trace_cache: Path) -> Iterator[StepPredictor]:
    """A cost model that also knows the kernels and adapters of Qwen's runs, as if their package were installed."""
    folder = tmp_path_factory.mktemp("published-times")
    info = folder / "qwen_kernels-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: qwen-kernels\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(
        "[advisor.strategies]\n" + "\n".join(qwen_kernels.ENTRY_POINTS) + "\n", encoding="utf-8"
    )
    qwen.register()
    qwen_kernels.register()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        registry.forget()
        yield StepPredictor(trace_cache)
    registry.forget()


def predicted(predictor: StepPredictor, rows: list[Timed]) -> list[Outcome]:
    outcomes = [predictor.outcome(row) for row in rows]
    print("\n" + table(outcomes))
    return outcomes


def barred(outcomes: list[Outcome]) -> list[Outcome]:
    return [outcome for outcome in outcomes if outcome.row.method != GPTQ_LORA]


def test_lora_of_a_7b_decoder_in_short(predictor: StepPredictor) -> None:
    """Both cards, three lengths, every batch that filled the card."""
    rows = [
        row for row in one_card()
        if (row.model, row.method, row.dtype) == ("mistral-7b", "lora", "bfloat16") and row.batch * row.length >= 4096
    ]  # fmt: skip
    outcomes = predicted(predictor, rows)
    total = errors(outcomes)
    assert total.rows == 33
    assert (total.median, total.p90) < (0.05, 0.12)
    assert total.inside >= 0.9
    assert {outcome.step.basis for outcome in outcomes} == {"datasheet"}


@pytest.mark.slow
def test_one_card(predictor: StepPredictor) -> None:
    outcomes = predicted(predictor, one_card())
    assert len(outcomes) == 177
    for device in ("a100-sxm4-80gb", "a100-pcie-80gb"):
        total = errors([outcome for outcome in barred(outcomes) if outcome.row.device == device])
        assert total.median <= 0.10
        assert total.p90 <= 0.25
    right, pairs = method_order(barred(outcomes))
    print(f"method order: {right} of {pairs}")
    assert pairs >= 5
    assert right == pairs


@pytest.mark.slow
def test_qwen_profile(predictor: StepPredictor) -> None:
    total = errors(predicted(predictor, qwen_profile()))
    assert total.rows == 36
    assert total.median <= 0.10
    assert total.p90 <= 0.25


@pytest.mark.slow
def test_intervals_hold_nine_in_ten(predictor: StepPredictor) -> None:
    outcomes = barred(predicted(predictor, [*one_card(), *qwen_profile()]))
    assert 0.88 <= errors(outcomes).inside <= 0.97
    small = [outcome for outcome in outcomes if outcome.row.batch * outcome.row.length <= SMALL_STEP_TOKENS]
    print(f"small steps: {errors(small)}")
    assert len(small) >= 10
    assert errors(small).inside >= 0.85


@pytest.mark.slow
@pytest.mark.parametrize("source", ["LLMFineTuningBench", "Qwen"])
def test_ten_steps_tell_the_rest(predictor: StepPredictor, source: str) -> None:
    """The ten most different rows of a machine are fitted; the others are predicted."""
    rows = qwen_profile() if source == "Qwen" else [row for row in one_card() if row.method != GPTQ_LORA]
    left: list[float] = []
    for device in sorted({row.device for row in rows}):
        steps = [predictor.timed_step(row) for row in rows if row.device == device]
        profile = load_profile(device)
        chosen = spread_steps(steps, profile, FITTED_ON)
        fitted = fit_efficiencies([steps[index] for index in chosen], profile)
        rest = [step for index, step in enumerate(steps) if index not in chosen]
        off = [abs(step_seconds(step, profile, fitted) / step.seconds - 1) for step in rest]
        print(f"\n{source}, {device}: {fitted}; {len(off)} rows: median {statistics.median(off):.1%}, "
              f"p90 {statistics.quantiles(off, n=10)[-1]:.1%}")  # fmt: skip
        left += off
    assert statistics.median(left) <= 0.06


@pytest.mark.slow
@pytest.mark.parametrize(("number", "least"), [(2, 0.95), (3, 0.9), (5, 0.9), (10, 0.9)])
def test_intervals_of_a_fitted_card_hold(predictor: StepPredictor, number: int, least: float) -> None:
    """Steps drawn at random, so that they rarely show everything; the rest of the machine's rows are predicted."""
    inside, draw = [], random.Random(number)
    rows = [row for row in [*one_card(), *qwen_profile()] if row.method != GPTQ_LORA]
    for source, device in sorted({(row.source, row.device) for row in rows}):
        steps = [predictor.timed_step(row) for row in rows if (row.source, row.device) == (source, device)]
        profile = load_profile(device)
        for _ in range(8):
            chosen = draw.sample(range(len(steps)), number)
            fitted = fitted_profile(profile, fit_datasheet([steps[index] for index in chosen], profile).fitted)
            clock = OperatorClock(fitted)
            for index, step in enumerate(steps):
                if index not in chosen:
                    predicted = step_time(step_total(step, clock), fitted)
                    inside.append(predicted.low <= step.seconds <= predicted.high)
    print(f"\n{number} steps: {statistics.fmean(inside):.1%} of {len(inside)} inside")
    assert statistics.fmean(inside) >= least


@pytest.mark.slow
def test_several_cards_are_extrapolated(predictor: StepPredictor) -> None:
    """FSDP adds a stated term; full fine-tuning follows it, small LoRA batches do not and are printed as they are."""
    outcomes = predicted(predictor, several_cards())
    assert len(outcomes) == 296
    assert {outcome.step.evidence for outcome in outcomes} == {"extrapolated"}
    full = [outcome for outcome in outcomes if outcome.row.method == "full"]
    assert errors(full).median <= 0.10
    without = [dataclasses.replace(o, step=predictor.outcome(dataclasses.replace(o.row, cards=1)).step) for o in full]
    print(f"without the term: {errors(without)}")
    assert errors(full).median < errors(without).median


def test_a_card_without_rates_is_refused(predictor: StepPredictor) -> None:
    row = next(row for row in one_card() if (row.model, row.method) == ("mistral-7b", "lora"))
    spec, strategy, execution = predictor.configuration(row)
    bare = dataclasses.replace(load_profile(row.device), flops_per_s={})
    with pytest.raises(InputError, match="matrix rates") as failure:
        CostModel(bare, cache_dir=predictor.cache_dir).estimate(spec, strategy, execution, None, with_quality=False)
    assert failure.value.exit_code == 2
    assert "advisor probe" in (failure.value.fix or "")


def test_a_fitted_card_is_a_profile_like_any_other(predictor: StepPredictor) -> None:
    rows = [
        row for row in one_card()
        if (row.model, row.method, row.dtype, row.device) == ("mistral-7b", "lora", "bfloat16", "a100-sxm4-80gb")
    ]  # fmt: skip
    slower = [dataclasses.replace(row, seconds=1.5 * row.seconds) for row in rows]
    profile = load_profile("a100-sxm4-80gb")
    fitted = fit_efficiencies([predictor.timed_step(row) for row in slower], profile)
    cost_model = CostModel(fitted_profile(profile, fitted), cache_dir=predictor.cache_dir)
    off = []
    for row in slower:
        spec, strategy, execution = predictor.configuration(row)
        step = predicted_step(cost_model, spec, strategy, execution, row.length)
        assert step.basis == "transferred"
        assert step.low < step.seconds < step.high
        off.append(abs(step.seconds / row.accumulation / row.seconds - 1))
    assert statistics.median(off) < 0.05
