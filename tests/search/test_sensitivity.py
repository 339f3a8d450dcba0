"""Neighbouring choices: which there are, what they save, how they are ranked and put in words."""

from __future__ import annotations

import dataclasses

import pytest

from advisor.core.errors import UntraceableError
from advisor.core.model import ModelSpec
from advisor.core.plan import ExecutionPlan
from advisor.core.strategy import StrategyConfig
from advisor.costmodel.model import CostModel
from advisor.hardware.profiles import load_profile
from advisor.search.sensitivity import ChangeComparison, Effect, compare, neighbours
from advisor.search.sensitivity.effects import weigh
from advisor.search.sensitivity.one_change_variants import (
    CHECKPOINTING,
    EIGHT_BIT,
    FOUR_BIT,
    FUSED_LOSS,
    HALF_BATCH,
)
from advisor.strategies import get_strategy
from tests.tracing.tiny import tiny_spec

GIB = 2**30
CARD = load_profile("rtx-4090")


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> ModelSpec:
    return tiny_spec("llama", "causal-lm", tmp_path_factory.mktemp("whatif"))


def names(model: ModelSpec, method: str, device=CARD, **switches: object) -> dict[str, bool]:
    """Neighbours by name, with whether they undo something."""
    execution = ExecutionPlan(4, max_seq_length=64, **switches)  # type: ignore[arg-type]
    strategy = get_strategy(method).configured(model)
    return {item.name: item.undoes for item in neighbours(model, strategy, execution, device)}


def test_neighbours_depend_on_what_is_already_chosen(llama: ModelSpec):
    plain = names(llama, "lora")
    assert {CHECKPOINTING, EIGHT_BIT, FUSED_LOSS, HALF_BATCH, FOUR_BIT, "partial fine-tuning", "bf16 weights"} <= set(
        plain
    )
    assert not any(plain.values())
    assert names(llama, "lora", gradient_checkpointing=True)[CHECKPOINTING]
    assert names(llama, "qlora")[FOUR_BIT]
    assert {"LoRA", "QLoRA"} <= set(names(llama, "full"))
    assert EIGHT_BIT not in names(llama, "lora", optim="adamw_bnb_8bit")
    assert FUSED_LOSS not in names(llama, "lora", loss="fused-linear")
    assert not {"bf16 weights", "bf16 mixed precision"} & set(names(llama, "lora", dtype="bfloat16", amp="bf16"))
    assert "sdpa attention" in names(llama, "lora", attn_implementation="eager")
    old = dataclasses.replace(CARD, dtypes=("float32", "float16"))
    assert "bf16 weights" not in names(llama, "lora", old)


def test_quantised_neighbours_keep_the_adapter(llama: ModelSpec):
    strategy = get_strategy("lora").configured(llama, rank=4, target_modules="all-linear")
    found = {n.name: n for n in neighbours(llama, strategy, ExecutionPlan(4, max_seq_length=64), CARD)}
    quantised = found[FOUR_BIT].strategy
    assert (quantised.method, quantised.rank, quantised.knob("target_modules")) == ("qlora", 4, "all-linear")
    halved = found[HALF_BATCH].execution
    assert (halved.micro_batch_size, halved.gradient_accumulation_steps) == (2, 2)
    assert halved.effective_batch_size == 4


def effect(name: str, saved_gib: float, ratio: float | None, *, undoes: bool = False) -> Effect:
    return Effect(name, f"--{name}", 0, round(saved_gib * GIB), ratio, undoes, False)


def test_the_sentence_ranks_by_bytes_per_time_lost_and_names_what_is_useless():
    effects = [
        effect(CHECKPOINTING, 5.1, 1.30),
        effect(FOUR_BIT, 0.2, 1.25),
        effect(HALF_BATCH, 3.0, 1.01),
        effect(EIGHT_BIT, 0.0, 1.0),
        effect(FUSED_LOSS, 1.0, 0.9),
    ]
    weighed = weigh(effects, [], 10 * GIB, {"activations": 8 * GIB, "weights": 2 * GIB})
    assert weighed.best == (HALF_BATCH, FUSED_LOSS, CHECKPOINTING)
    assert weighed.tempting == FOUR_BIT
    assert weighed.sentence == (
        "activations dominate (80 % of the peak): half the batch, accumulated twice saves 3.00 GiB and costs no time; "
        "the fused-linear loss saves 1.00 GiB and is about 10 % faster; checkpointing saves 5.10 GiB and costs about "
        "30 % time; 4-bit weights would save only 205 MiB"
    )


def test_choices_that_are_made_are_credited_and_not_recommended():
    weighed = weigh(
        [effect(FOUR_BIT, 8.0, 1.2, undoes=True)], [], 6 * GIB, {"weights": 3 * GIB, "activations": 3 * GIB}
    )
    assert weighed.best == () and weighed.tempting is None and weighed.made == (FOUR_BIT,)
    assert "no single choice saves a noticeable part of it" in weighed.sentence
    assert weighed.sentence.endswith("4-bit weights (already on) save 8.00 GiB and cost about 20 % time")


def test_without_times_bytes_decide_and_nothing_is_said_about_time():
    effects = [effect(HALF_BATCH, 1.0, None), effect(CHECKPOINTING, 2.0, None)]
    weighed = weigh(effects, [], 4 * GIB, {"activations": GIB, "weights": GIB, "gradients": GIB})
    assert weighed.best == (CHECKPOINTING, HALF_BATCH)
    assert weighed.sentence.startswith("no kind dominates the peak (activations 33 %, weights 33 %, gradients 33 %)")
    assert "time" not in weighed.sentence


@pytest.fixture(scope="module")
def cost_model(trace_cache) -> CostModel:
    return CostModel(CARD, cache_dir=trace_cache)


def test_savings_are_differences_of_two_predictions_and_failures_are_skipped(llama: ModelSpec, cost_model: CostModel):
    strategy = get_strategy("lora").configured(llama)
    execution = ExecutionPlan(8, max_seq_length=256, eval_batch_size=8)

    class Partly(CostModel):
        """Cannot trace 8-bit optimizers and other methods."""

        def estimate(self, model: ModelSpec, strategy: StrategyConfig, execution: ExecutionPlan, *rest, **more):  # type: ignore[override,no-untyped-def]
            if execution.optim != "adamw_torch_fused" or strategy.method != "lora":
                raise UntraceableError("aten.nonzero in some.module:forward cannot be traced")
            return cost_model.estimate(model, strategy, execution, *rest, **more)

    found: ChangeComparison = compare(llama, strategy, execution, None, Partly(CARD), {"activations": 2, "weights": 1})
    saved = found.effect(CHECKPOINTING)
    assert saved is not None
    peaks = [
        cost_model.estimate(llama, strategy, plan, None, with_quality=False, same_length=True).memory.device_bytes
        for plan in (execution, dataclasses.replace(execution, gradient_checkpointing=True))
    ]
    assert saved.saved_bytes == peaks[0] - peaks[1] > 0
    assert saved.time_ratio is not None and saved.time_ratio > 1.1
    assert any(reason.startswith(EIGHT_BIT) and "aten.nonzero" in reason for reason in found.skipped)
    assert found.effect(EIGHT_BIT) is None

    undone = compare(
        llama,
        strategy,
        dataclasses.replace(execution, gradient_checkpointing=True),
        None,
        Partly(CARD),
        {"activations": 2, "weights": 1},
    ).effect(CHECKPOINTING)
    assert undone is not None and undone.undoes
    assert undone.saved_bytes == saved.saved_bytes
    assert undone.time_ratio == pytest.approx(saved.time_ratio)
