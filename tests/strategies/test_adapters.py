"""What the methods train, counted against published tables, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import pytest

from advisor.core.errors import InputError
from advisor.core.model import ModelSpec
from advisor.core.plan import ExecutionPlan
from advisor.core.strategy import StrategyConfig
from advisor.strategies import get_strategy
from advisor.strategies.qlora import QLoraKnobs
from advisor.training.build import build_model
from advisor.training.models import inspect_model
from tests.strategies.architectures import spec_of

CONFIGS = Path(__file__).parents[1] / "fixtures" / "configs"
EXECUTION = ExecutionPlan(micro_batch_size=1)


def published(name: str, task: str = "sequence-classification") -> ModelSpec:
    return inspect_model(str(CONFIGS / f"{name}.json"), task)  # type: ignore[arg-type]


def trainable(spec: ModelSpec, config: StrategyConfig, fake_device) -> dict[str, int]:
    with fake_device():
        model = build_model(spec, config, EXECUTION, empty=True)
    return {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}


def test_lora_on_distilbert_trains_the_published_count(fake_device) -> None:
    """Yadav et al. 2025: 739,586 = 147,456 adapter parameters + the two layers of the head."""
    spec = published("distilbert-base-uncased")
    counts = trainable(spec, get_strategy("lora").configured(spec, rank=8), fake_device)
    assert sum(counts.values()) == 739_586
    assert sum(count for name, count in counts.items() if "lora_" in name) == 147_456


def test_high_rank_lora_on_distilbert_trains_the_published_count(fake_device) -> None:
    spec = published("distilbert-base-uncased")
    counts = trainable(spec, get_strategy("high_rank_lora").default_config(spec), fake_device)
    assert sum(counts.values()) == 1_181_954


def test_qlora_on_query_key_value_of_bert_has_the_published_adapters(fake_device) -> None:
    spec = published("bert-base-uncased")
    config = get_strategy("qlora").configured(spec, target_modules=("query", "key", "value"))
    counts = trainable(spec, config, fake_device)
    assert sum(count for name, count in counts.items() if "lora_" in name) == 442_368


def test_pooler_of_bert_trains_with_the_classifier(fake_device) -> None:
    spec = published("bert-base-uncased")
    for method in ("lora", "ia3", "hira", "qlora", "head", "partial"):
        counts = trainable(spec, get_strategy(method).default_config(spec), fake_device)
        assert any(
            "pooler.dense.weight" in name or "pooler.modules_to_save.default.dense.weight" in name for name in counts
        ), method


def test_ia3_learns_one_vector_per_target(fake_device) -> None:
    """Keys and values scale their output (768), feed-forward blocks their input (3072)."""
    spec = published("distilbert-base-uncased")
    counts = trainable(spec, get_strategy("ia3").default_config(spec), fake_device)
    vectors = [count for name, count in counts.items() if "ia3_l" in name]
    assert sorted(vectors) == [768] * 12 + [3072] * 6


def test_partial_unfreezes_the_last_layers_only(fake_device) -> None:
    spec = published("bert-base-uncased")
    counts = trainable(spec, get_strategy("partial").configured(spec, unfrozen_layers=2), fake_device)
    layers = {name.split(".")[3] for name in counts if ".layer." in name}
    assert layers == {"10", "11"}
    assert sum(counts.values()) == 2 * 7_087_872 + 590_592 + 1_538


def test_partial_of_a_decoder_takes_the_final_norm_and_leaves_the_output_projection(fake_device) -> None:
    spec = spec_of("llama", "causal-lm")
    names = trainable(spec, get_strategy("partial").configured(spec, unfrozen_layers=1), fake_device)
    assert "model.norm.weight" in names
    assert {name.split(".")[2] for name in names if ".layers." in name} == {"2"}
    assert not any("lm_head" in name or "embed" in name for name in names)


def test_head_of_a_tied_language_model_is_untied(fake_device) -> None:
    spec = spec_of("llama", "causal-lm")
    names = trainable(spec, get_strategy("head").default_config(spec), fake_device)
    assert names == {"lm_head.weight": 100 * 32}


@pytest.mark.parametrize("method", ["lora", "high_rank_lora", "hira", "sparse_lora", "qlora"])
def test_rank_larger_than_the_layer_is_a_problem(method: str) -> None:
    spec = spec_of("bert")
    strategy = get_strategy(method)
    assert strategy.problems(strategy.configured(spec, rank=32), spec) == []
    (problem,) = strategy.problems(strategy.configured(spec, rank=33), spec)
    assert "rank <= 32" in problem and "33" in problem


def test_narrow_value_projection_bounds_the_rank() -> None:
    """Grouped-query attention: the value projection of 32 -> 16 is narrower than the model."""
    spec = spec_of("mistral")
    strategy = get_strategy("lora")
    (problem,) = strategy.problems(strategy.configured(spec, rank=17), spec)
    assert "v_proj" in problem
    assert strategy.search_space(spec)["rank"].high == 16


def test_unknown_target_is_a_problem() -> None:
    spec, strategy = spec_of("bert"), get_strategy("lora")
    (problem,) = strategy.problems(strategy.configured(spec, target_modules=("q_proj",)), spec)
    assert "'q_proj'" in problem and "query" in problem


@pytest.mark.parametrize("count", [4, 99])
def test_more_unfrozen_layers_than_the_model_has(count: int) -> None:
    spec, strategy = spec_of("bert"), get_strategy("partial")
    (problem,) = strategy.problems(strategy.configured(spec, unfrozen_layers=count), spec)
    assert "3 layers" in problem and str(count) in problem


def test_shared_layers_cannot_be_unfrozen_one_by_one() -> None:
    spec, strategy = spec_of("albert"), get_strategy("partial")
    assert strategy.problems(strategy.configured(spec, unfrozen_layers=2), spec)


def test_alpha_follows_the_rank_unless_given() -> None:
    spec, strategy = spec_of("bert"), get_strategy("lora")
    assert strategy.configured(spec, rank=4).knob("lora_alpha") == 8
    assert strategy.configured(spec, rank=4, lora_alpha=1).knob("lora_alpha") == 1


def test_relative_learning_rate_multiplies_the_default() -> None:
    spec, strategy = spec_of("bert"), get_strategy("lora")
    assert strategy.configured(spec, lr_rel=2.0).learning_rate == 2 * strategy.default_config(spec).learning_rate


def test_unknown_and_invalid_knobs_are_refused() -> None:
    spec, strategy = spec_of("bert"), get_strategy("lora")
    with pytest.raises(InputError, match="no knob ranks"):
        strategy.configured(spec, ranks=4)
    with pytest.raises(InputError, match="rank >= 1 must hold, but got 0"):
        strategy.configured(spec, rank=0)


def test_default_learning_rate_falls_with_size() -> None:
    small, base, large = (
        published("distilbert-base-uncased"),
        published("bert-base-uncased"),
        published("mistral-7b-v0.1", "causal-lm"),
    )
    lora, full = get_strategy("lora"), get_strategy("full")
    assert lora.default_config(small).learning_rate == lora.default_config(base).learning_rate == 5e-4
    assert lora.default_config(spec_of("bert")).learning_rate == 1e-3
    assert lora.default_config(large).learning_rate == 2e-4 == 10 * full.default_config(large).learning_rate


class TestAnyPeft:
    strategy = get_strategy("peft")

    def config(self, values: dict) -> StrategyConfig:
        return self.strategy.configured(spec_of("llama", "causal-lm"), peft_config=values)

    def problems(self, values: dict) -> list[str]:
        return self.strategy.problems(self.config(values), spec_of("llama", "causal-lm"))

    @pytest.mark.parametrize(
        "kind", ["LORA", "IA3", "LOHA", "LOKR", "OFT", "BOFT", "VERA", "HIRA", "LN_TUNING", "FOURIERFT", "lora"]
    )
    def test_many_methods_build_with_targets_filled_in(self, kind: str, fake_device) -> None:
        spec = spec_of("llama", "causal-lm")
        values = (
            {"peft_type": kind}
            | ({"n_frequency": 8} if kind == "FOURIERFT" else {})
            | ({"oft_block_size": 8, "r": 0} if kind == "OFT" else {})
        )
        assert self.problems(values) == []
        model = build_model(spec, self.config(values), EXECUTION)
        assert self.strategy.declared_trainable(model, self.config(values))

    @pytest.mark.parametrize("init", ["eva", "EVA", "corda", "lora_ga"])
    def test_initialisations_from_data_are_refused(self, init: str) -> None:
        [problem] = self.problems({"peft_type": "LORA", "init_lora_weights": init})
        assert "must be computed from batches of the data" in problem
        assert self.problems({"peft_type": "LORA", "init_lora_weights": "olora"}) == []

    def test_unknown_keys_without_a_value_do_nothing(self) -> None:
        assert self.problems({"peft_type": "LORA", "option_of_a_later_version": None, "another": []}) == []
        assert len(self.problems({"peft_type": "LORA", "option_of_a_later_version": 3})) == 2

    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            ({"target_modules": ["q_proj", "v_proj"]}, 0),
            ({"target_modules": "all-linear"}, 0),
            ({"target_modules": r".*layers\.[0-2]\..*q_proj"}, None),
            ({"target_modules": ["layers.0.self_attn.q_proj"]}, None),
            ({"target_modules": ["q_proj"], "modules_to_save": ["model.layers.1"]}, None),
            ({"peft_type": "ADAPTION_PROMPT", "adapter_len": 4, "adapter_layers": 2}, None),
        ],
        ids=str,
    )
    def test_names_that_tell_layers_apart_forbid_a_shallow_trace(self, values: dict, expected: int | None) -> None:
        assert self.strategy.uneven_layers(self.config({"peft_type": "LORA"} | values)) == expected

    def test_dora_through_lora(self, fake_device) -> None:
        spec = spec_of("llama", "causal-lm")
        counts = trainable(
            spec,
            self.config({"peft_type": "LORA", "r": 2, "use_dora": True, "target_modules": ["q_proj"]}),
            fake_device,
        )
        assert sum("lora_magnitude_vector" in name for name in counts) == 3

    def test_unknown_type_gets_near_matches(self) -> None:
        with pytest.raises(InputError, match="'LORRA'") as caught:
            build_model(spec_of("llama", "causal-lm"), self.config({"peft_type": "LORRA"}), EXECUTION)
        assert "LORA" in str(caught.value.fix)

    def test_missing_type(self) -> None:
        assert "peft_type" in self.problems({"r": 8})[0]

    def test_all_unknown_keys_are_reported_with_what_was_meant(self) -> None:
        problems = self.problems({"peft_type": "LORA", "rank": 8, "lora_alhpa": 16})
        assert any("'lora_alhpa'" in problem and "lora_alpha" in problem for problem in problems)
        assert any("'rank'" in problem for problem in problems)

    @pytest.mark.parametrize("values", [{"r": -1}, {"target_modules": ["nowhere"]}, {"r": 8, "bias": "sometimes"}])
    def test_invalid_values_are_input_errors(self, values: dict) -> None:
        assert self.problems({"peft_type": "LORA"} | values)

    def test_classification_heads_join_modules_to_save(self, fake_device) -> None:
        spec = spec_of("bert")
        config = self.strategy.configured(spec, peft_config={"peft_type": "LORA", "modules_to_save": ["embeddings"]})
        counts = trainable(spec, config, fake_device)
        assert any("pooler" in name for name in counts) and any("embeddings" in name for name in counts)

    def test_is_not_offered_unasked(self) -> None:
        assert self.strategy.user_knob == "peft_config"


def test_scales_that_are_not_quantised_twice_cost_half_a_bit_per_weight(fake_device) -> None:
    def scales(**knobs: object) -> tuple[int, int]:
        spec = published("bert-base-uncased")
        with fake_device():
            model = build_model(spec, get_strategy("qlora").configured(spec, **knobs), EXECUTION, empty=True)
        states = [p.quant_state for p in model.parameters() if hasattr(p, "quant_state")]
        return sum(state.absmax.nbytes for state in states), sum(state.shape.numel() for state in states)

    single, weights = scales(double_quant=False)
    double, _ = scales()
    assert single == weights // 64 * 4
    assert double == weights // 64


def test_an_unknown_code_book_is_refused() -> None:
    with pytest.raises(ValueError, match="quant_type must be nf4 or fp4, but got int4"):
        QLoraKnobs(quant_type="int4")  # type: ignore[arg-type]
