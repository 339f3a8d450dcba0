"""The cost model on published configurations, without weights: what it must say about cards that are not here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from advisor.core.budget import Budget
from advisor.core.cost import CostEstimate
from advisor.core.model import ModelSpec
from advisor.core.plan import ExecutionPlan
from advisor.costmodel.model import CostModel
from advisor.hardware.profiles import load_profile
from advisor.strategies import get_strategy
from advisor.training.models import inspect_model
from tests.tracing.tiny import tiny_spec

CONFIGS = Path(__file__).resolve().parents[1] / "fixtures" / "configs"
GIB = 2**30


def classifier(name: str) -> ModelSpec:
    return inspect_model(str(CONFIGS / f"{name}.json"), "sequence-classification")


def estimate(cost_model: CostModel, spec: ModelSpec, method: str, **knobs: object) -> CostEstimate:
    execution = ExecutionPlan(**{"micro_batch_size": 8, "max_seq_length": 128, "eval_batch_size": 8, **knobs})  # type: ignore[arg-type]
    return cost_model.estimate(spec, get_strategy(method).default_config(spec), execution, None)


@pytest.mark.parametrize(("name", "memory_ratio"), [("bert-base-uncased", 1.2), ("distilbert-base-uncased", 1.03)])
def test_partial_costs_less_than_lora_on_encoders(name: str, memory_ratio: float, trace_cache: Path) -> None:
    """Malipiero and Stärk, LoRA vs partial fine-tuning on SNLI: LoRA took 1.36-1.82x the memory and 1.5-1.66x the
    time."""
    cost_model, spec = CostModel(load_profile("a100-sxm4-80gb"), cache_dir=trace_cache), classifier(name)
    partial, lora = estimate(cost_model, spec, "partial"), estimate(cost_model, spec, "lora")
    assert lora.memory.allocated_bytes > memory_ratio * partial.memory.allocated_bytes
    assert lora.time is not None and partial.time is not None
    assert lora.time.step_s > 1.2 * partial.time.step_s


def test_snli_figures(trace_cache: Path) -> None:
    """The same source, BERT-base at batch 8: 0.89 GB partial, 1.57 GB LoRA (allocator or NVML not stated, length not
    stated)."""
    cost_model, spec = CostModel(load_profile("a100-sxm4-80gb"), cache_dir=trace_cache), classifier("bert-base-uncased")
    partial, lora = estimate(cost_model, spec, "partial"), estimate(cost_model, spec, "lora")
    assert 0.5e9 < partial.memory.allocated_bytes < 0.95e9
    assert partial.memory.allocated_bytes < lora.memory.allocated_bytes < 1.7e9


def test_published_distilbert_full_fine_tuning(trace_cache: Path) -> None:
    """Lee et al., DistilBERT on SST-2, full fine-tuning, batch 8: 1305.9 MiB by max_memory_allocated.

    Batches are padded dynamically; the longest SST-2 sentence has 66 tokens. Their optimizer was the default of its
    time, foreach AdamW, whose temporaries are copies of the parameters.
    """
    cost_model, spec = (
        CostModel(load_profile("a100-sxm4-80gb"), cache_dir=trace_cache),
        classifier("distilbert-base-uncased"),
    )
    cost = estimate(cost_model, spec, "full", max_seq_length=72, optim="adamw_torch")
    assert cost.memory.allocated_bytes == pytest.approx(1305.9 * 2**20, rel=0.03)


def test_breakdown_adds_up(trace_cache: Path) -> None:
    cost_model, spec = CostModel(load_profile("t4"), cache_dir=trace_cache), classifier("distilbert-base-uncased")
    for method in ("full", "lora"):
        memory = estimate(cost_model, spec, method).memory
        assert memory.breakdown.total_bytes == memory.device_bytes
        assert memory.allocated_bytes <= memory.reserved_bytes <= memory.device_bytes
        for name, interval in memory.intervals.items():
            assert interval.contains(getattr(memory, name))


def test_more_of_anything_costs_more(trace_cache: Path) -> None:
    cost_model, spec = CostModel(load_profile("t4"), cache_dir=trace_cache), classifier("distilbert-base-uncased")

    def device_bytes(**knobs: object) -> int:
        return estimate(cost_model, spec, "lora", **knobs).memory.device_bytes

    assert device_bytes(micro_batch_size=16) > device_bytes(micro_batch_size=8) > device_bytes(micro_batch_size=1)
    assert device_bytes(max_seq_length=256) > device_bytes(max_seq_length=128)
    assert device_bytes(gradient_checkpointing=True, micro_batch_size=32) < device_bytes(micro_batch_size=32)


def test_weights_of_a_large_decoder(trace_cache: Path) -> None:
    spec = inspect_model(str(CONFIGS / "mistral-7b-v0.1.json"), "causal-lm")
    cost_model = CostModel(load_profile("rtx-4090"), cache_dir=trace_cache)
    knobs = {
        "micro_batch_size": 1,
        "max_seq_length": 512,
        "gradient_checkpointing": True,
        "dtype": "bfloat16",
        "eval_batch_size": 1,
    }
    lora, qlora = (estimate(cost_model, spec, method, **knobs) for method in ("lora", "qlora"))
    assert lora.memory.breakdown.weights_bytes == pytest.approx(2 * 7.2417e9, rel=0.01)
    # 6.98e9 linear weights at half a byte and double-quantised statistics (0.127 bits each), 2 x 131e6 in bfloat16.
    packed_bytes = 6.98e9 * (0.5 + 0.127 / 8) + 2 * 2 * 131.1e6
    assert qlora.memory.breakdown.weights_bytes == pytest.approx(packed_bytes, rel=0.02)
    assert qlora.memory.device_bytes < 8 * GIB < lora.memory.device_bytes
    assert qlora.total_parameters == lora.total_parameters == 7_241_732_096 + lora.trainable_parameters


def test_a_second_process_reads_the_traces(trace_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = classifier("distilbert-base-uncased")
    first = estimate(CostModel(load_profile("t4"), cache_dir=trace_cache), spec, "lora")
    monkeypatch.setattr("advisor.tracing.symbolic_trace.symbolic_trace", _not_again)
    second = estimate(CostModel(load_profile("t4"), cache_dir=trace_cache), spec, "lora")
    assert second == first


def _not_again(*args: object) -> None:
    raise AssertionError("traced although the trace is on disk")


def test_latency_and_saved_size_are_those_of_the_trained_model(trace_cache: Path, tmp_path: Path) -> None:
    """One row on its own is faster than a batch, merging removes the adapters' operators, an adapter is small."""
    cost_model = CostModel(load_profile("t4"), cache_dir=trace_cache)
    spec = tiny_spec("distilbert", "sequence-classification", tmp_path)
    execution = ExecutionPlan(8, max_seq_length=128, eval_batch_size=8)
    config = get_strategy("lora").default_config(spec)
    plain = cost_model.estimate(spec, config, execution, None)
    limited = cost_model.estimate(spec, config, execution, None, Budget(max_latency_s=0.001))
    assert plain.time is not None and limited.time is not None
    assert plain.time.merged_latency_s is None and plain.time.latency_s == limited.time.latency_s
    assert 0 < limited.time.merged_latency_s < 0.9 * limited.time.latency_s < limited.time.step_s  # type: ignore[operator]
    assert limited.fits is False
    full = estimate(cost_model, spec, "full")
    assert full.saved_bytes == 4 * full.total_parameters and plain.saved_bytes == 4 * plain.trainable_parameters
    assert full.saved_interval is not None and full.saved_interval.contains(full.saved_bytes)


def test_energy_is_known_where_power_was_measured_or_is_limited(trace_cache: Path) -> None:
    """A data sheet's power limit, or earlier runs; otherwise the reason is said."""
    assert CostModel(load_profile("a100-sxm4-80gb"), cache_dir=trace_cache).power_unknown == ""
    card = replace(load_profile("t4"), power_limit_watts=None)
    assert "t4" in CostModel(card, cache_dir=trace_cache).power_unknown
    assert CostModel(card, cache_dir=trace_cache, watts_of=lambda device_id: [60.0]).power_unknown == ""


@pytest.mark.slow
def test_preferences_cost_two_more_passes_and_a_copy_without_an_adapter(trace_cache: Path, tmp_path: Path) -> None:
    """Against next tokens of as many sequences; afterwards the model is used as any other."""
    cost_model = CostModel(load_profile("t4"), cache_dir=trace_cache)
    pairs, texts = (tiny_spec("llama", task, tmp_path) for task in ("dpo", "causal-lm"))
    for method, copies in (("full", 1), ("lora", 0)):
        learned = estimate(cost_model, pairs, method, micro_batch_size=4)
        usual = estimate(cost_model, texts, method, micro_batch_size=8)
        extra = learned.memory.breakdown.weights_bytes - usual.memory.breakdown.weights_bytes
        assert extra == pytest.approx(copies * 4 * texts.total_parameters, rel=0.02, abs=100_000)
        assert learned.time is not None and usual.time is not None
        assert learned.time.step_s > 1.1 * usual.time.step_s
        assert learned.time.latency_s == pytest.approx(usual.time.latency_s)
