"""Whole runs: step counts, lengths, throughput, and where the time goes."""

from __future__ import annotations

import dataclasses
import math
import random
import statistics
from typing import Any

import pytest

from advisor.core.data import DataProfile
from advisor.core.device import DeviceProfile, Rate
from advisor.core.model import ModelSpec
from advisor.core.plan import ExecutionPlan
from advisor.core.strategy import StrategyConfig
from advisor.costmodel.time.lengths import row_quantile
from advisor.costmodel.time.phases import (
    BURST_BYTES,
    FIRST_TOUCH_BYTES_PER_S,
    PART_NAMES,
    TOKENIZER_S,
    RunShape,
    checkpoint_count,
)
from advisor.costmodel.time.run import decode_speed, optimizer_steps, quantized_parameters, run_time, stopping_notes
from advisor.costmodel.time.step import StepTime
from advisor.hardware.backends import get_backend
from advisor.hardware.optimizers import PACKING
from advisor.strategies.lora import LoraKnobs
from advisor.tracing.trace_store import TracedConfiguration

DATA = DataProfile(1000, 200, (4, 8, 12, 15, 19, 23, 26, 30, 35, 42, 70), 70, 128, 1000)
STRATEGY = StrategyConfig("lora", 1e-3, num_train_epochs=2)
DEVICE = DeviceProfile("cpu-x-2c", "x", "cpu", 2**34, bytes_per_s={"storage": Rate(1e8, "probed")}, basis="measured")


def quadratic(length: int) -> float:
    return 0.01 + 1e-4 * length + 5e-7 * length**2


def step_of(length: int) -> StepTime:
    seconds = quadratic(length)
    return StepTime(seconds, 0.9 * seconds, 1.1 * seconds, "interpolated", "calibrated")


@pytest.mark.parametrize(
    ("rows", "batch", "accumulation", "epochs", "expected"),
    [(1000, 16, 1, 2.0, 126), (1000, 16, 4, 2.0, 32), (7, 8, 1, 3.0, 3), (1000, 10, 1, 0.5, 50), (5, 8, 8, 0.1, 1)],
)
def test_steps_are_counted_as_the_trainer_counts_them(
    rows: int, batch: int, accumulation: int, epochs: float, expected: int
) -> None:
    data = dataclasses.replace(DATA, train_rows=rows)
    strategy = dataclasses.replace(STRATEGY, num_train_epochs=epochs)
    assert optimizer_steps(data, strategy, ExecutionPlan(batch, accumulation)) == expected


def test_training_time_agrees_with_simulated_epochs() -> None:
    execution = ExecutionPlan(16, 1, 128)
    estimate = run_time(step_of, DATA, STRATEGY, execution, DEVICE)
    chance = random.Random(3)
    drawn = []
    for _ in range(3000):
        longest = max(row_quantile(DATA, chance.random()) for _ in range(16))
        drawn.append(quadratic(math.ceil(longest / 8) * 8))
    assert estimate.parts["training"] == pytest.approx(126 * statistics.fmean(drawn), rel=0.03)
    assert estimate.step_s == pytest.approx(statistics.median(drawn), rel=0.06)


def test_total_is_the_sum_of_its_parts() -> None:
    shape = RunShape(weights_bytes=10**9, saved_bytes=5 * 10**7, checkpoint_bytes=15 * 10**7, evaluations=2)
    estimate = run_time(step_of, DATA, STRATEGY, ExecutionPlan(16, 2, 128), DEVICE, shape=shape)
    assert estimate.total_s == pytest.approx(sum(estimate.parts.values()))
    assert tuple(estimate.parts) == PART_NAMES
    assert estimate.parts["saving"] == pytest.approx(0.5, abs=0.2)
    assert estimate.parts["checkpoints"] == pytest.approx(2 * 1.5, abs=0.5)
    assert estimate.parts["loading"] > 1.0
    low, high = estimate.intervals["total_s"].low, estimate.intervals["total_s"].high
    assert low < estimate.total_s < high
    assert estimate.intervals["step_s"].low == pytest.approx(0.9 * estimate.step_s)
    assert (estimate.evidence, estimate.basis) == ("interpolated", "calibrated")


def test_what_exceeds_a_burst_is_written_at_the_lasting_rate() -> None:
    rates = {"storage": Rate(1e9, "probed"), "storage_large": Rate(1e8, "probed")}
    device = dataclasses.replace(DEVICE, bytes_per_s=rates)
    small, large = (
        run_time(step_of, DATA, STRATEGY, ExecutionPlan(16), device, shape=RunShape(saved_bytes=size)).parts["saving"]
        for size in (BURST_BYTES, BURST_BYTES + 10**9)
    )
    assert large - small == pytest.approx(10.0)
    assert small < 0.2


def test_a_cpu_clears_the_pages_of_its_first_step() -> None:
    probed = dataclasses.replace(DEVICE, bytes_per_s={"first_touch": Rate(2e9, "probed")})
    elsewhere = dataclasses.replace(DEVICE, type="cuda", bytes_per_s={})

    def extra(device: DeviceProfile) -> float:
        with_memory, without = (
            run_time(step_of, DATA, STRATEGY, ExecutionPlan(16), device, shape=shape).parts["warm_up"]
            for shape in (RunShape(fresh_bytes=4 * 10**9), RunShape())
        )
        return with_memory - without

    assert extra(probed) == pytest.approx(2.0)
    assert extra(DEVICE) == pytest.approx(4e9 / FIRST_TOUCH_BYTES_PER_S)
    assert extra(elsewhere) == 0.0


def test_weights_are_packed_at_the_probed_rate() -> None:
    def loading(device: DeviceProfile, quantized: int) -> float:
        shape = RunShape(weights_bytes=10**9, quantized_parameters=quantized)
        return run_time(step_of, DATA, STRATEGY, ExecutionPlan(16), device, shape=shape).parts["loading"]

    probed = dataclasses.replace(DEVICE, bytes_per_s={PACKING: Rate(4e8, "probed")})
    assert loading(probed, 10**8) - loading(probed, 0) == pytest.approx(1.0)
    assert loading(DEVICE, 10**8) - loading(DEVICE, 0) == pytest.approx(
        4e8 / get_backend("cpu").overhead.packed_bytes_per_s
    )


def test_what_was_measured_beforehand_is_taken_as_it_is() -> None:
    data = dataclasses.replace(DATA, reading_s=2.0, tokenizing_s_per_row=1e-3)
    parts = run_time(
        step_of, data, STRATEGY, ExecutionPlan(16), DEVICE, shape=RunShape(weights_bytes=10**9, loading_s=3.5)
    ).parts
    assert parts["loading"] == 3.5
    assert parts["data"] == pytest.approx(TOKENIZER_S + 2.0 + 1200 * 1e-3)


def test_parts_that_err_on_their_own_widen_the_interval_less_than_their_sum() -> None:
    step = dataclasses.replace(STRATEGY, num_train_epochs=20)
    estimate = run_time(step_of, DATA, step, ExecutionPlan(16, 1, 128), DEVICE, shape=RunShape())
    computed = estimate.parts["training"] + estimate.parts["evaluation"]
    others = estimate.total_s - computed
    above = estimate.intervals["total_s"].high - estimate.total_s
    assert 0.1 * computed < above < 0.1 * computed + others


def test_a_smaller_last_step_counts_as_its_share() -> None:
    execution = ExecutionPlan(16, 4, 128)
    few = run_time(step_of, dataclasses.replace(DATA, train_rows=650), STRATEGY, execution, DEVICE)
    more = run_time(step_of, dataclasses.replace(DATA, train_rows=700), STRATEGY, execution, DEVICE)
    assert more.parts["training"] / few.parts["training"] == pytest.approx(700 / 650, rel=0.01)


def test_checkpoints_come_with_every_epoch_and_every_minute() -> None:
    assert checkpoint_count(30.0, 1, 0.2) == 1
    assert checkpoint_count(30.0, 3, 0.2) == 3
    assert checkpoint_count(200.0, 1, 0.2) == 4
    assert checkpoint_count(200.0, 1, 5.0) == 3, "slow ones are spaced further apart"


def test_grouped_rows_train_and_evaluate_faster() -> None:
    def forward_of(length: int) -> StepTime:
        seconds = 0.3 * quadratic(length)
        return StepTime(seconds, 0.9 * seconds, 1.1 * seconds, "interpolated", "calibrated")

    plain, grouped = ExecutionPlan(16, 1, 128), ExecutionPlan(16, 1, 128, group_by_length=True)
    random_s = run_time(step_of, DATA, STRATEGY, plain, DEVICE, evaluation_time_of=forward_of).parts
    grouped_s = run_time(step_of, DATA, STRATEGY, grouped, DEVICE, evaluation_time_of=forward_of).parts
    assert grouped_s["training"] < 0.85 * random_s["training"]
    assert grouped_s["evaluation"] < 0.85 * random_s["evaluation"]
    assert grouped_s["between_steps"] < random_s["between_steps"]


def test_inference_speed_is_that_of_a_forward_pass() -> None:
    def forward_of(length: int) -> StepTime:
        seconds = 0.3 * quadratic(length)
        return StepTime(seconds, 0.8 * seconds, 1.25 * seconds, "interpolated", "calibrated")

    execution = ExecutionPlan(16, 1, 128, eval_batch_size=32)
    estimate = run_time(
        step_of, DATA, STRATEGY, execution, DEVICE, evaluation_time_of=forward_of, decoding=(40.0, "bandwidth")
    )
    assert estimate.inference is not None
    assert estimate.inference.samples_per_s == pytest.approx(200 / estimate.parts["evaluation"])
    assert estimate.inference.tokens_per_s == pytest.approx(estimate.inference.samples_per_s * DATA.mean_tokens())
    interval = estimate.inference.intervals["samples_per_s"]
    assert interval.low == pytest.approx(0.8 * estimate.inference.samples_per_s)
    assert interval.high == pytest.approx(1.25 * estimate.inference.samples_per_s)
    assert (estimate.inference.decode_tokens_per_s, estimate.inference.decode_basis) == (40.0, "bandwidth")


def test_decoding_reads_every_weight_once() -> None:
    device = dataclasses.replace(DEVICE, type="cuda", bytes_per_s={"memory": Rate(1e12, "probed")})
    speed = decode_speed(140 * 10**9, 1000, device, None)
    assert speed is not None
    assert speed[0] == pytest.approx(1e12 / 140e9, rel=0.1)
    assert "not measured" in speed[1]
    small = decode_speed(10**8, 1000, device, None)
    assert small is not None
    assert small[0] == pytest.approx(1 / (1000 * get_backend("cuda").overhead.host_s_per_operator), rel=0.1), (
        "launching decides"
    )


def test_throughput_counts_real_tokens() -> None:
    execution = ExecutionPlan(16, 1, 128)
    estimate = run_time(step_of, DATA, STRATEGY, execution, DEVICE)
    assert estimate.samples_per_s == pytest.approx(16 / estimate.step_s)
    assert estimate.tokens_per_s == pytest.approx(16 * DATA.mean_tokens() / estimate.step_s)


def test_evaluation_is_forward_only() -> None:
    def forward_of(length: int) -> StepTime:
        seconds = 0.3 * quadratic(length)
        return StepTime(seconds, 0.9 * seconds, 1.1 * seconds, "interpolated", "calibrated")

    execution = ExecutionPlan(16, 1, 128, eval_batch_size=16)
    traced = run_time(step_of, DATA, STRATEGY, execution, DEVICE, evaluation_time_of=forward_of)
    guessed = run_time(step_of, DATA, STRATEGY, execution, DEVICE)
    per_row = guessed.parts["training"] / 2000
    assert traced.parts["evaluation"] == pytest.approx(200 * per_row * 0.3, rel=0.1)
    assert guessed.parts["evaluation"] == pytest.approx(200 * per_row / 3, rel=0.1)


def test_no_held_out_rows_cost_nothing() -> None:
    data = dataclasses.replace(DATA, eval_rows=0)
    assert run_time(step_of, data, STRATEGY, ExecutionPlan(16), DEVICE).parts["evaluation"] == 0


def test_few_lengths_are_evaluated() -> None:
    asked: list[int] = []

    def counted(length: int) -> StepTime:
        asked.append(length)
        return step_of(length)

    run_time(counted, DATA, STRATEGY, ExecutionPlan(4), DEVICE)
    assert len(asked) <= 7
    assert all(length % 8 == 0 for length in asked)


def test_equally_long_blocks_need_one_length() -> None:
    blocks = dataclasses.replace(DATA, token_length_quantiles=(128, 128, 128))
    estimate = run_time(step_of, blocks, STRATEGY, ExecutionPlan(4, 1, 128, padded=False), DEVICE)
    assert estimate.step_s == pytest.approx(quadratic(128))


class FourLayers:
    """A hundred weights beside an embedding of sixty; ten are trained."""

    def total_parameters(self, rank: int) -> int:
        return 170

    def trainable_parameters(self, rank: int) -> int:
        return 10


def test_only_a_quantising_method_spends_time_on_it_on_a_cpu_too() -> None:
    model = ModelSpec("m", "config", "causal-lm", {}, "llama", 160, 6, 4, 10, None)
    family: Any = FourLayers()
    for method, quantized in (("qlora", 100), ("lora", 0)):
        strategy = StrategyConfig(method, 1e-4, knobs=LoraKnobs())
        assert quantized_parameters(TracedConfiguration(family, model, strategy, ExecutionPlan(4))) == quantized


def test_every_evaluation_costs_time_and_a_checkpoint() -> None:
    def parts(evaluations: int, evaluates_best: bool = False) -> dict[str, float]:
        shape = RunShape(evaluations=evaluations, evaluates_best=evaluates_best)
        return run_time(step_of, DATA, STRATEGY, ExecutionPlan(16), DEVICE, shape=shape).parts

    once, four, best = parts(1), parts(4), parts(4, evaluates_best=True)
    assert four["evaluation"] == pytest.approx(4 * once["evaluation"])
    assert four["checkpoints"] > once["checkpoints"]
    assert best["saving"] - four["saving"] == pytest.approx(once["evaluation"]), "the best one is evaluated once more"
    assert best | {"saving": 0} == four | {"saving": 0}


def test_a_run_that_may_stop_early_is_priced_whole_and_says_so() -> None:
    patient = STRATEGY.replaced(load_best_model_at_end=True, early_stopping_patience=2, evaluations_per_epoch=4)
    assert patient.evaluations == 8
    assert stopping_notes(STRATEGY) == ()
    [note] = stopping_notes(patient)
    assert "8 evaluations" in note and "after 3" in note
