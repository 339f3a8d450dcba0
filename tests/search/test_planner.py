"""What is recommended, what is rejected and in which words."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from advisor.core.budget import Budget
from advisor.core.errors import InputError
from advisor.core.model import ModelSpec
from advisor.core.plan import Plan
from advisor.core.recommendation import Recommendation, RejectedMethod
from advisor.core.strategy import StrategyConfig
from advisor.core.units import parse_latency_s, parse_memory_bytes
from advisor.costmodel.memory.traced_run import MemoryBounds
from advisor.costmodel.model import CostBounds
from advisor.costmodel.quality.evidence import EvidenceRun, QualityEvidence
from advisor.costmodel.quality.model import QualityModel
from advisor.search.planner import PlanRequest, known_devices, precision, rerank, solve_execution
from advisor.search.planner.candidates import considered
from advisor.strategies import get_strategy
from advisor.strategies.lora import LoraKnobs
from tests.search.planner_fakes import (
    DATA,
    GIB,
    FakeCostModel,
    cpu,
    cuda,
    data_profile,
    distilbert,
    mistral,
    plans_of,
    with_device_bytes,
)

A100 = cuda(80, name="a100-sxm4-80gb")


def recommend(model, device, *, memory_gib=None, time_s=None, fake=None, **options) -> Recommendation:
    budget = Budget(int(memory_gib * GIB) if memory_gib else None, time_s, options.pop("min_quality", None))
    return plans_of(model, fake or FakeCostModel(device), budget, data=options.pop("profile", None), **options)


def test_every_method_is_ranked_or_rejected_with_a_reason():
    answer = recommend(distilbert(), cuda(80))
    named = [item.plan.strategy.method for item in answer.ranked] + [item.method for item in answer.rejected]
    assert sorted(named) == sorted(considered(distilbert()))
    assert all(item.reason for item in (*answer.ranked, *answer.rejected))
    peft = next(item for item in answer.rejected if item.method == "peft")
    assert "configuration of your own" in peft.reason


@pytest.mark.parametrize("memory_gib", [8, 12, 14])
def test_qlora_wins_where_a_7b_model_fits_no_other_way(memory_gib):
    answer = recommend(mistral(), cuda(24), memory_gib=memory_gib, profile=data_profile(length=512))
    assert answer.best is not None
    assert answer.best.strategy.method == "qlora"


def test_qlora_is_not_recommended_for_a_small_model_on_a_large_card():
    answer = recommend(distilbert(), A100)
    methods = [item.plan.strategy.method for item in answer.ranked]
    assert methods[0] != "qlora"
    qlora = answer.ranked[methods.index("qlora")]
    assert "as long" in qlora.reason


def test_full_fine_tuning_of_7b_on_24_gb_is_rejected_and_the_reason_says_what_would_fit():
    answer = recommend(mistral(), cuda(24), profile=data_profile(length=512))
    full = next(item for item in answer.rejected if item.method == "full")
    assert full.smallest_plan is not None
    needed = full.smallest_plan.predicted.memory.quantile_bytes(0.95)
    cards = [card for card in known_devices() if card.type == "cuda" and card.memory_bytes >= needed]
    assert f"{min(cards, key=lambda card: card.memory_bytes).id} (" in full.reason
    assert "micro-batch 1 with checkpointing" in full.reason
    assert re.search(r"needs \d+\.\d GiB", full.reason)


def test_within_a_budget_below_the_card_the_reason_names_the_budget_that_fits():
    answer = recommend(distilbert(), cuda(24), memory_gib=0.45)
    full = next(item for item in answer.rejected if item.method == "full")
    needed = parse_memory_bytes(re.search(r"--memory (\S+) would fit", full.reason)[1])
    wider = recommend(distilbert(), cuda(24), memory_gib=needed / GIB, methods=["full"])
    assert wider.best is not None


def test_nothing_fits_tells_the_smallest_plan_and_what_to_change():
    answer = recommend(mistral(), cuda(24), memory_gib=1.5)
    assert answer.ranked == ()
    assert answer.best is None
    assert re.search(r"the smallest plan needs [\d.]+ GiB: qlora, micro-batch 1 with checkpointing", answer.advice[0])
    memory = float(re.search(r"raise --memory to ([\d.]+)GiB", answer.advice[0])[1])
    assert recommend(mistral(), cuda(24), memory_gib=memory).best is not None


def test_time_budget_rejects_with_the_time_it_would_take():
    free = recommend(distilbert(), cuda(24), methods=["full", "head"])
    times = {item.plan.strategy.method: item.plan.predicted.time.intervals["total_s"].high for item in free.ranked}
    answer = recommend(distilbert(), cuda(24), time_s=(times["full"] + times["head"]) / 2, methods=["full", "head"])
    assert [item.plan.strategy.method for item in answer.ranked] == ["head"]
    assert "the time budget is" in answer.rejected[0].reason
    nothing = recommend(distilbert(), cuda(24), time_s=1.0, methods=["full", "head"])
    assert "raise --time to" in nothing.advice[0]
    assert "head" in nothing.advice[0]


def test_unknown_times_are_said_and_no_time_is_invented():
    answer = recommend(distilbert(), cuda(24), time_s=60, fake=FakeCostModel(cuda(24), timed=False), methods=["lora"])
    assert answer.best is not None
    assert "not checked" in answer.advice[0]


def test_an_untraceable_method_is_rejected_in_the_tracers_words():
    answer = recommend(
        distilbert(), cuda(24), fake=FakeCostModel(cuda(24), untraceable=frozenset({"hira"})), methods=["hira", "lora"]
    )
    assert [item.method for item in answer.rejected] == ["hira"]
    assert "aten::nonzero" in answer.rejected[0].reason
    assert answer.rejected[0].smallest_plan is None


def test_a_plan_with_bitsandbytes_states_says_what_it_needs():
    plans = [
        recommend(distilbert(), cuda(24), memory_gib=size, methods=["full"]).best for size in (0.7, 0.9, 1.1, 1.3, 8.0)
    ]
    noted = {plan.execution.optim: plan.predicted.notes for plan in plans if plan is not None and plan.predicted}
    assert {"adamw_torch_fused", "adamw_bnb_8bit"} <= set(noted)
    assert not any("bitsandbytes" in note for note in noted["adamw_torch_fused"])
    assert "the optimizer adamw_bnb_8bit needs the package bitsandbytes where the plan runs" in noted["adamw_bnb_8bit"]


def test_checkpointing_is_only_traced_when_the_largest_micro_batch_does_not_fit():
    roomy = FakeCostModel(cuda(80))
    recommend(distilbert(), roomy.device, fake=roomy)
    assert not any(family[1] for family in roomy.families)
    assert len(roomy.families) == len({family[0] for family in roomy.families}), "one trace a method"
    tight = FakeCostModel(cuda(80))
    answer = recommend(distilbert(), tight.device, fake=tight, memory_gib=0.45, methods=["lora"])
    assert any(family[1] for family in tight.families)
    assert answer.best is not None


def test_every_plan_of_an_answer_is_priced_exactly_and_once():
    fake = FakeCostModel(cuda(24))
    answer = recommend(mistral(), fake.device, fake=fake, profile=data_profile(length=512))
    plans = [item.plan for item in answer.ranked] + [
        item.smallest_plan for item in answer.rejected if item.smallest_plan
    ]
    priced = [(repr(strategy), execution) for strategy, execution in fake.exact]
    assert len(plans) > 5 and len(priced) == len(set(priced))
    assert {(repr(plan.strategy), plan.execution) for plan in plans} <= set(priced)
    assert answer.replays == len(priced) < answer.evaluated / 2


def test_bounds_that_are_too_tight_cost_a_search_but_no_wrong_plan():
    """Bounds that promise two thirds of the memory: what they let through is refused when it is priced."""

    class Optimistic(FakeCostModel):
        def bounds(self, model, strategy, execution, data, budget=None):
            found = super().bounds(model, strategy, execution, data, budget)
            typical = with_device_bytes(found.typical.memory, found.typical.memory.device_bytes * 2 // 3)
            memory = MemoryBounds(typical, 0.6 * found.memory.least_bytes, 0.6 * found.memory.most_bytes)
            return CostBounds(replace(found.typical, memory=typical), memory)

    for memory_gib in (0.5, 0.8, 1.2, 3):
        honest = recommend(distilbert(), cuda(24), memory_gib=memory_gib)
        misled = recommend(distilbert(), cuda(24), memory_gib=memory_gib, fake=Optimistic(cuda(24)))
        assert all(item.plan.predicted.fits for item in misled.ranked)
        assert {item.plan.strategy.method for item in misled.ranked} == {
            item.plan.strategy.method for item in honest.ranked
        }


def test_plans_keep_the_effective_batch_and_the_length_of_the_data():
    for batch in (6, 32):
        answer = recommend(distilbert(), cuda(8), memory_gib=1.2, effective_batch_size=batch)
        for item in answer.ranked:
            assert item.plan.execution.effective_batch_size == batch
            assert item.plan.execution.max_seq_length == 128
            assert item.plan.execution.padded


def test_data_types_follow_device_and_method():
    bf16 = {item.plan.strategy.method: item.plan.execution for item in recommend(distilbert(), cuda(80)).ranked}
    assert (bf16["full"].dtype, bf16["full"].amp) == ("float32", "bf16")
    assert (bf16["lora"].dtype, bf16["lora"].amp) == ("bfloat16", "bf16")
    fp16 = {
        item.plan.strategy.method: item.plan.execution for item in recommend(distilbert(), cuda(80, bf16=False)).ranked
    }
    assert (fp16["full"].dtype, fp16["full"].amp) == ("float32", "fp16")
    assert (fp16["lora"].dtype, fp16["lora"].amp) == ("float16", "fp16")


def test_full_fine_tuning_goes_to_pure_bf16_only_when_master_weights_do_not_fit():
    short = data_profile(length=64)
    small = recommend(mistral(), cuda(160), profile=short, methods=["full"]).best
    assert (small.execution.dtype, small.execution.amp, small.execution.optim) == (
        "float32",
        "bf16",
        "adamw_torch_fused",
    )
    tight = recommend(mistral(), cuda(60), profile=short, methods=["full"]).best
    assert (tight.execution.dtype, tight.execution.amp) == ("bfloat16", "none")


def test_an_architecture_without_sdpa_gets_eager_attention():
    config = {"model_type": "deberta-v2"}
    deberta = ModelSpec(
        "deberta", "config", "sequence-classification", config, "deberta-v2", 10**8, 768, 12, 10**5, 512
    )
    answer = recommend(deberta, cuda(24), methods=["full", "head"])
    assert {item.plan.execution.attn_implementation for item in answer.ranked} == {"eager"}


@pytest.mark.parametrize(
    ("model_type", "kernels"),
    [("bert", ("flash_attention_2", "sdpa")), ("gemma2", ("flash_attention_2", "eager")), ("t5", ("sdpa",))],
)
def test_flash_attention_needs_an_architecture_that_has_it(model_type, kernels, monkeypatch):
    monkeypatch.setattr(precision.importlib.util, "find_spec", lambda name: name)
    spec = ModelSpec(
        model_type,
        "config",
        "sequence-classification",
        {"model_type": model_type},
        model_type,
        10**8,
        768,
        12,
        10**5,
        512,
    )
    assert precision.attention_kernels(cuda(24), spec, precision.PrecisionPolicy("bfloat16", "bf16")) == kernels
    full_precision = precision.attention_kernels(cuda(24), spec, precision.PrecisionPolicy("float32", "none"))
    assert "flash_attention_2" not in full_precision


def test_cpu_compares_kernels_and_data_types_once():
    slow_half = FakeCostModel(cpu())
    answer = recommend(distilbert(), slow_half.device, fake=slow_half)
    assert {item.plan.execution.attn_implementation for item in answer.ranked} == {"sdpa"}
    assert len([family for family in slow_half.families if family[2] == "eager"]) == 1
    fast_half = FakeCostModel(cpu(half_speed=3.0))
    answer = recommend(distilbert(), fast_half.device, fake=fast_half)
    assert {item.plan.execution.amp for item in answer.ranked} == {"bf16"}
    assert {item.plan.execution.dtype for item in answer.ranked} == {"float32"}


def test_complete_configurations_are_taken_and_checked():
    lora = get_strategy("lora").configured(distilbert(), rank=16)
    answer = recommend(distilbert(), cuda(24), methods=[lora, "lora"])
    assert [item.plan.strategy.rank for item in answer.ranked].count(16) == 1
    assert len(answer.ranked) == 2
    with pytest.raises(InputError, match="lora"):
        recommend(distilbert(), cuda(24), methods=[get_strategy("lora").configured(distilbert(), rank=100_000)])
    with pytest.raises(InputError, match="no strategy"):
        recommend(distilbert(), cuda(24), methods=["lorra"])


def test_minimum_quality_is_a_probability_and_excludes_nothing():
    free = recommend(distilbert(), cuda(24))
    asked = recommend(distilbert(), cuda(24), min_quality=0.99)
    assert len(asked.ranked) == len(free.ranked)
    assert all(0 <= item.plan.predicted.quality.p_at_least < 0.5 for item in asked.ranked)


def test_ties_are_inside_the_noise_and_the_best_is_the_cheapest_of_them():
    answer = recommend(distilbert(), cuda(24))
    tied = [item for item in answer.ranked if item.tied]
    assert len(tied) > 1
    assert max(item.score for item in tied) - min(item.score for item in tied) <= 0.0157
    seconds = {item.plan.strategy.method: item.plan.predicted.time.total_s for item in tied}
    handicapped = [
        1.2 * value if get_strategy(method).stores_4bit_weights else value for method, value in seconds.items()
    ]
    assert handicapped == sorted(handicapped)
    assert all(item.score < min(other.score for other in tied) for item in answer.ranked if not item.tied)


def test_without_a_look_at_the_task_methods_are_tied_and_the_cheapest_stands_first():
    answer = recommend(distilbert(), cuda(24))
    tied = {item.plan.strategy.method for item in answer.ranked if item.tied}
    assert {"full", "partial", "lora", "hira", "ia3"} <= tied and "head" not in tied
    assert answer.best.predicted.quality.value is None
    assert "not known" in answer.ranked[0].reason


def test_perplexity_is_not_promised_without_runs_but_plans_are_ranked():
    answer = recommend(distilbert("masked-lm"), cuda(24), profile=data_profile(classes=1))
    assert answer.best is not None
    assert answer.best.predicted.quality.value is None
    assert "text" in answer.ranked[0].reason


def test_solve_execution_answers_with_a_plan_or_a_reason():
    strategy = StrategyConfig("lora", 1e-4, knobs=LoraKnobs(lora_alpha=16))
    fake = FakeCostModel(cuda(24))
    plan = solve_execution(
        PlanRequest(distilbert(), DATA, data_profile(), effective_batch_size=16, seed=3), strategy, fake
    )
    assert isinstance(plan, Plan)
    assert (plan.seed, plan.execution.effective_batch_size, plan.predicted.fits) == (3, 16, True)
    refused = solve_execution(PlanRequest(distilbert(), DATA, data_profile(), Budget(1000)), strategy, fake)
    assert isinstance(refused, RejectedMethod)
    assert "needs" in refused.reason
    assert refused.smallest_plan.predicted is not None


def test_epochs_replace_the_defaults():
    answer = recommend(distilbert(), cuda(24), knobs={"num_train_epochs": 2})
    assert {item.plan.strategy.num_train_epochs for item in answer.ranked} == {2}


def test_a_method_that_was_tried_stands_before_one_that_only_looks_a_little_better():
    answer = recommend(distilbert(), cuda(24), methods=["lora", "hira", "full"])
    lora = get_strategy("lora").default_config(distilbert())
    runs = tuple(
        EvidenceRun(lora, rows, 9000, 500, loss, accuracy, 10.0, "completed")
        for rows, loss, accuracy in ((1125, 0.62, 0.64), (2250, 0.58, 0.68))
    )
    after = rerank(answer, QualityModel(evidence=QualityEvidence(runs, target_eval_rows=1000)))
    assert after.best.strategy.method == "lora"
    assert after.best.predicted.quality.basis == "measured"
    assert answer.best.predicted.quality.value is None
    hira = next(item for item in after.ranked if item.plan.strategy.method == "hira")
    assert hira.score > after.ranked[0].score
    assert "not trained here" in hira.reason


def test_reranking_without_new_knowledge_changes_nothing():
    answer = recommend(distilbert(), cuda(24))
    again = rerank(answer, QualityModel())
    assert [item.plan.strategy.method for item in again.ranked] == [item.plan.strategy.method for item in answer.ranked]


def test_limits_on_the_model_reject_what_exceeds_them_and_say_what_would_help():
    model, device = distilbert(), cuda(80)
    fake = FakeCostModel(device)
    small = plans_of(model, fake, Budget(max_saved_size_bytes=4 * 1_000_000))
    assert all(item.plan.predicted.saved_bytes <= 4_000_000 for item in small.ranked) and small.ranked
    assert {"lora", "ia3"} <= {item.plan.strategy.method for item in small.ranked}
    reasons = {item.method: item.reason for item in small.rejected}
    assert "saves up to" in reasons["full"] and "the saved size budget is 3.81 MiB" in reasons["full"]
    nothing = plans_of(model, fake, Budget(max_latency_s=1e-6, max_saved_size_bytes=10))
    assert not nothing.ranked
    assert "raise --max-latency to" in nothing.advice[0] and "raise --max-saved-size to" in nothing.advice[0]
    enough = re.search(r"raise --max-latency to (\S+),", nothing.advice[0])
    assert enough is not None
    assert plans_of(model, fake, Budget(max_latency_s=parse_latency_s(enough[1]))).ranked


def test_the_largest_rank_keeps_every_limit():
    class ByRank(FakeCostModel):
        def bounds(self, model, strategy, execution, data, budget=None):
            found = super().bounds(model, strategy, execution, data, budget)
            return replace(found, typical=replace(found.typical, saved_bytes=1000 * (strategy.rank or 1)))

        def estimate(self, model, strategy, *rest, **options):
            return replace(super().estimate(model, strategy, *rest, **options), saved_bytes=1000 * (strategy.rank or 1))

    ranks = {}
    for limit in (20_000, 40_000):
        answer = plans_of(distilbert(), ByRank(cuda(80)), Budget(max_saved_size_bytes=limit), methods=["lora"])
        ranks[limit] = answer.ranked[0].largest_ranks["attention"]
    assert ranks == {20_000: 16, 40_000: 32}
