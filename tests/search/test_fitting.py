"""What ``fit`` answers: the largest that fits, checked with the cost model itself on both sides of every answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.core.budget import Budget
from advisor.core.device import DeviceProfile
from advisor.core.errors import InputError
from advisor.core.model import ModelSpec
from advisor.core.strategy import StrategyConfig
from advisor.costmodel.model import CostModel
from advisor.hardware.profiles import load_profile
from advisor.search.fitting import FitAnswer, FitRequest, Largest, MethodFit, SetupFit, fit_methods
from advisor.search.fitting.fitting import on_card, switches, widest_rank
from advisor.search.fitting.largest import SizeAxis
from advisor.search.planner.candidates import candidates
from advisor.search.planner.precision import PrecisionPolicy
from advisor.strategies import get_strategy
from advisor.strategies.lora import LoraKnobs
from tests.tracing.tiny import tiny_spec

MIB, GIB = 2**20, 2**30


def exact(value: int, slope: int, curve: int) -> int:
    """Live bytes and what an allocator holds on top: a few per cent, now and then a fifth, as where it runs full."""
    live = slope * value + curve * value * value
    return live + live * (20 if value % 7 == 0 else 3 + value % 3) // 100


@given(
    slope=st.integers(1, 50),
    curve=st.integers(0, 3),
    limit=st.integers(0, 2_000_000),
    step=st.integers(1, 8),
    count=st.integers(1, 3000),
    factor=st.floats(0.5, 2.0),
)
def test_the_largest_fitting_value_fits_and_the_next_does_not(slope, curve, limit, step, count, factor):
    calls: list[int] = []

    def memory_of(value: int) -> int:
        calls.append(value)
        return exact(value, slope, curve)

    axis = SizeAxis(
        memory_of,
        lambda value: slope * value + curve * value * value,
        limit,
        low=step,
        high=step * count,
        step=step,
        factor=factor,
    )
    found = axis.largest_fitting()
    if found is None:
        assert exact(step, slope, curve) > limit
    else:
        assert found in calls and exact(found, slope, curve) <= limit
        assert found == step * count or exact(found + step, slope, curve) > limit
    assert len(calls) <= 20


def test_a_linear_axis_takes_two_exact_evaluations():
    calls: list[int] = []

    def memory_of(rows: int) -> int:
        calls.append(rows)
        return GIB + round(1.04 * (14 * GIB + rows * 1_234_567_890))

    axis = SizeAxis(
        memory_of,
        lambda rows: 14 * GIB + rows * 1_234_567_890,
        80 * GIB,
        low=1,
        high=1 << 14,
        constant_bytes=GIB,
        factor=1.05,
    )
    found = axis.largest_fitting()
    assert found is not None and memory_of(found) <= 80 * GIB < memory_of(found + 1)
    assert len(calls) - 2 <= 2


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> ModelSpec:
    return tiny_spec("llama", "causal-lm", tmp_path_factory.mktemp("fit"), max_position_embeddings=2048)


@pytest.fixture(scope="module")
def cost_model(trace_cache) -> CostModel:
    return CostModel(load_profile("rtx-4090"), cache_dir=trace_cache)


QUESTION = FitRequest(micro_batch_size=4, seq_length=512, limit_bytes=1700 * MIB)


@pytest.fixture(scope="module")
def answer(llama: ModelSpec, cost_model: CostModel) -> FitAnswer:
    cards = [load_profile(name) for name in ("t4", "rtx-4090", "a100-sxm4-80gb")]
    return fit_methods(llama, cost_model, QUESTION, candidates(llama, ["full", "lora"]), cards=cards)


def need(
    cost_model: CostModel,
    model: ModelSpec,
    strategy: StrategyConfig,
    setup: SetupFit,
    rows: int,
    length: int,
    limit: int = QUESTION.limit_bytes,
) -> int:
    execution = setup.switches.execution(rows, length, padded=True)
    memory = cost_model.memory(model, strategy, execution, Budget(memory_bytes=limit), same_length=True)
    return memory.quantile_bytes(QUESTION.safety_level)


def traced(answer: FitAnswer) -> list[tuple[MethodFit, SetupFit]]:
    return [(method, setup) for method in answer.methods for setup in method.setups if setup.traced]


def test_every_method_is_looked_at_with_and_without_checkpointing(answer: FitAnswer):
    for method in answer.methods:
        assert {setup.switches.gradient_checkpointing for setup in method.setups if setup.traced} == {False, True}
        assert method.reason is None
    assert len(traced(answer)) >= 4


def test_the_largest_micro_batch_is_maximal(answer, cost_model, llama):
    for method, setup in traced(answer):
        found = setup.micro_batch
        assert found is not None and found.bound == "memory"
        at = need(cost_model, llama, method.strategy, setup, found.value, 512)
        assert at == found.memory_bytes <= QUESTION.limit_bytes
        assert need(cost_model, llama, method.strategy, setup, found.value + 1, 512) > QUESTION.limit_bytes


def test_the_largest_length_is_maximal_in_steps_of_the_padding(answer, cost_model, llama):
    for method, setup in traced(answer):
        found = setup.seq_length
        assert found is not None and found.step == 8 and found.value % 8 == 0
        assert need(cost_model, llama, method.strategy, setup, 4, found.value) == found.memory_bytes
        if found.bound == "memory":
            assert need(cost_model, llama, method.strategy, setup, 4, found.value + 8) > QUESTION.limit_bytes
        else:
            assert (found.bound, found.value) == ("positions", 2048)


def test_the_largest_rank_stops_at_the_memory_or_the_narrowest_layer(answer, cost_model, llama):
    found = {method.method: [setup.rank for setup in method.setups if setup.traced] for method in answer.methods}
    assert found["full"] == [None, None]
    widest = 64  # two key-value heads of 32
    assert widest_rank(llama, next(m.strategy for m in answer.methods if m.method == "lora")) == widest
    for rank in found["lora"]:
        assert isinstance(rank, Largest) and rank.value <= widest
        assert (rank.bound == "layer width") == (rank.value == widest)


def test_a_rank_bound_by_memory_is_maximal(cost_model, llama):
    strategy = get_strategy("lora").configured(llama, target_modules="all-linear")
    setup = next(
        s for m, s in traced(fit_methods(llama, cost_model, QUESTION, candidates(llama, [strategy]))) if s.rank
    )
    at, one_more = (need(cost_model, llama, strategy.replaced(rank=rank), setup, 4, 512) for rank in (40, 41))
    assert at < one_more
    question = dataclasses.replace(QUESTION, limit_bytes=at)
    answer = fit_methods(llama, cost_model, question, candidates(llama, [strategy]))
    same = next(s for m, s in traced(answer) if s.switches == setup.switches)
    assert same.rank is not None and (same.rank.value, same.rank.bound) == (40, "memory")


def test_the_card_is_the_smallest_that_fits(answer, cost_model, llama):
    for _, setup in traced(answer):
        assert setup.card is not None and setup.card.device == "t4"
        assert setup.card.memory_bytes <= setup.card.capacity_bytes
        assert "bf" not in setup.card.dtype + setup.card.amp  # the T4 has no bfloat16
    large = dataclasses.replace(QUESTION, micro_batch_size=64, seq_length=2048)
    (method,) = fit_methods(
        llama,
        cost_model,
        large,
        candidates(llama, ["lora"]),
        cards=[load_profile("rtx-4090"), load_profile("a100-sxm4-80gb")],
    ).methods
    for setup in method.setups:
        assert setup.card is not None
        smaller = setup.memory_bytes <= load_profile("rtx-4090").memory_bytes
        assert setup.card.device == ("rtx-4090" if smaller else "a100-sxm4-80gb")


def test_checkpointing_holds_more(answer: FitAnswer):
    for method in answer.methods:
        plain, saved = [setup for setup in method.setups if setup.traced][:2]
        assert saved.seq_length.value >= plain.seq_length.value
        assert saved.memory_bytes < plain.memory_bytes


def test_nothing_fits_names_the_smallest_need(cost_model: CostModel, llama: ModelSpec):
    answer = fit_methods(
        llama, cost_model, dataclasses.replace(QUESTION, limit_bytes=1 * MIB), candidates(llama, ["full", "lora"])
    )
    assert not answer.fits
    method, setup = answer.leanest
    assert setup.memory_bytes == min(s.memory_bytes for _, s in traced(answer))
    assert method.method == "lora"
    # Weights alone exceed the limit: only the leanest set-up is traced.
    full = next(m for m in answer.methods if m.method == "full")
    assert sum(setup.traced for setup in full.setups) == 1


def test_a_method_that_cannot_be_looked_at_says_why(cost_model: CostModel, llama: ModelSpec):
    answer = fit_methods(llama, cost_model, QUESTION, candidates(llama, ["peft"]))
    (method,) = answer.methods
    assert method.reason == "not considered: it needs a PEFT configuration of your own"
    assert not answer.fits and answer.leanest is None


def test_an_untraceable_set_up_is_a_problem_and_not_a_failure(cost_model: CostModel, llama: ModelSpec):
    class Refusing:
        device = cost_model.device

        def memory(self, *_: object, same_length: bool):
            raise InputError("the step cannot be traced: aten.nonzero in some.module:forward")

    answer = fit_methods(llama, Refusing(), QUESTION, candidates(llama, ["lora"]))  # type: ignore[arg-type]
    (method,) = answer.methods
    assert method.setups == ()
    assert method.reason is not None and "aten.nonzero" in method.reason


@pytest.fixture
def setup_of() -> Callable[..., object]:
    device = load_profile("rtx-4090")
    model = ModelSpec("x", "config", "causal-lm", {}, "llama", 1, 1, 1, 1, None)
    return lambda *rung: next(switches(device, model, PrecisionPolicy(*rung), checkpointing=True))


def test_a_card_without_bfloat16_gets_float16_where_that_can_train(setup_of):
    t4: DeviceProfile = load_profile("t4")
    lora, full = StrategyConfig("lora", 1e-4, knobs=LoraKnobs()), StrategyConfig("full", 1e-5)
    assert on_card(setup_of("bfloat16", "bf16"), t4, lora).dtype == "float16"
    assert on_card(setup_of("float32", "bf16"), t4, full).amp == "fp16"
    assert on_card(setup_of("bfloat16", "none"), t4, full) is None
    assert on_card(setup_of("float32", "none"), t4, full).dtype == "float32"


def test_limits_on_the_model_end_the_axes_and_say_so(answer: FitAnswer, cost_model: CostModel, llama: ModelSpec):
    method, plain = next((m, setup) for m, setup in traced(answer) if setup.rank is not None and setup.rank.value > 8)
    assert not plain.beyond and method.strategy is not None
    cost = cost_model.model_figures(llama, method.strategy, plain.switches.execution(4, 512, padded=True), Budget())
    assert cost.saved_interval is not None
    small = dataclasses.replace(QUESTION, max_saved_size_bytes=int(cost.saved_interval.high) + 1)
    found = fit_methods(llama, cost_model, small, candidates(llama, [method.method])).methods[0].setups[0]
    assert found.rank is not None and (found.rank.value, found.rank.bound) == (8, "saved size")
    assert found.fits and found.seq_length == plain.seq_length
    fast = dataclasses.replace(QUESTION, max_latency_s=1e-9)
    refused = fit_methods(llama, cost_model, fast, candidates(llama, [method.method])).methods[0]
    assert not refused.fits and "--max-latency" in refused.setups[0].beyond[0]
