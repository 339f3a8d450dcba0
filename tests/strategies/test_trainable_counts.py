"""Every method of PEFT with options that speak of layers trains as many parameters as stock PEFT says.

A deep model is traced at few layers where its layers are alike; the count of the whole model must not depend on that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

from advisor.core.model import ModelSpec
from advisor.core.plan import ExecutionPlan
from advisor.core.strategy import StrategyConfig
from advisor.strategies.skeleton import auto_class
from advisor.tracing.step import TraceRequest, TraceSession
from advisor.tracing.trace_store import TraceStore
from tests.tracing.peft_methods import KINDS, MODELS, VALUES, peft_strategy, save_experts, traced_kinds
from tests.tracing.tiny import tiny_spec

LAYERS, DEEP = 8, 28
EXECUTION = ExecutionPlan(micro_batch_size=2, max_seq_length=32)

Q_PROJ, Q_AND_V = {"target_modules": ["q_proj"]}, {"target_modules": ["q_proj", "v_proj"]}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "expression of layers": {"target_modules": r".*layers\.[0-2]\..*q_proj"},
    "expression of all": {"target_modules": r".*\.(q|v)_proj"},
    "module of one layer": {"target_modules": ["layers.5.self_attn.q_proj", "v_proj"]},
    "two layers": {**Q_AND_V, "layers_to_transform": [0, 5]},
    "first layer": {**Q_AND_V, "layers_to_transform": 0},
    "layers by pattern": {**Q_AND_V, "layers_to_transform": [1, 2, 6], "layers_pattern": "layers"},
    "excluded layers": {**Q_AND_V, "exclude_modules": r".*layers\.[4-7]\..*"},
    "excluded name": {**Q_AND_V, "exclude_modules": ["v_proj"]},
    "rank of a layer": {**Q_PROJ, "rank_pattern": {r"layers\.3\..*q_proj": 2}},
    "rank of a name": {**Q_PROJ, "rank_pattern": {"q_proj": 2}},
    "scale of a layer": {**Q_PROJ, "alpha_pattern": {r"layers\.3\..*q_proj": 2}},
    "frequencies of a layer": {**Q_PROJ, "n_frequency_pattern": {r"layers\.3\..*q_proj": 7}},
    "blocks of a layer": {**Q_PROJ, "block_size_pattern": {"layers.3.self_attn.q_proj": 16}},
    "bound of a layer": {**Q_PROJ, "lambda_pattern": {"layers.3.self_attn.q_proj": 16}},
    "subspace of a layer": {**Q_PROJ, "target_svd_config": {"model.layers.3.self_attn.q_proj": 2}},
    "saved module of a layer": {**Q_PROJ, "modules_to_save": ["layers.5.mlp.up_proj"]},
    "saved modules": {**Q_PROJ, "modules_to_save": ["lm_head", "up_proj"]},
    "tokens": {**Q_PROJ, "trainable_token_indices": [1, 2, 3]},
    "tokens by name": {**Q_PROJ, "trainable_token_indices": {"lm_head": [1, 2], "embed_tokens": [4]}},
    "biases": {**Q_PROJ, "bias": "all"},
    "replicated layers": {"layer_replication": [[0, 5], [3, 8]]},
    "parameter of all layers": {"target_parameters": ["mlp.gate_proj.weight"]},
    "parameter of a layer": {"target_parameters": ["layers.3.mlp.gate_proj.weight"]},
    "A shared by two": {"stride_A": 2},
    "A shared by three": {"stride_A": 3, "num_B": 4},
    "vectors of half": {"weight_tying": 0.5},
    "vectors of 70 %": {"weight_tying": 0.3},
    "one vector": {"weight_tying": 1.0},
    "shares by width": {**Q_AND_V, "proportional_parameters": True},
    "shared blocks": {"block_share": True},
    "as many layers as named": {"num_layers": 5},
    "projected prefix": {"prefix_projection": True, "encoder_hidden_size": 32},
    "deep encoder": {"encoder_num_layers": 3},
    "deep shadow": {"shadow_num_hidden_layers": 5},
    "three prompted layers": {"adapter_len": 4, "adapter_layers": 3},
    "half the rank": {"effective_rank": 0.25},
}
"""Fields beside a method's smallest configuration; each method is tried with those that it has."""

NO_TARGETS = ("ADAPTION_PROMPT", "SHADOW", "TRAINABLE_TOKENS", "XLORA")
"""PEFT finds their modules itself."""
REFUSED_BY_PEFT = {
    ("ADALORA", "parameter of a layer"),
    ("ADALORA", "parameter of all layers"),
}
"""PEFT 0.21.2 fails on these itself."""
DEFAULTS: dict[str, dict[str, Any]] = {
    "LN_TUNING": {"target_modules": ["input_layernorm", "post_attention_layernorm", "norm"]},
    "IA3": {"target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
}
"""What the advisor takes where nothing is said, if not query and value projections."""

CASES = [
    (kind, option)
    for kind in traced_kinds("llama")
    for option, values in OPTIONS.items()
    if set(values) <= {field.name for field in fields(PEFT_TYPE_TO_CONFIG_MAPPING[kind])}
    and not (kind in NO_TARGETS and "target_modules" in values)
    and (kind, option) not in REFUSED_BY_PEFT
    and kind != "XLORA"
]
EVERYDAY = {
    *(("LORA", option) for option in ("plain", "expression of layers", "rank of a layer", "excluded layers", "tokens")),
    *(("LILY", option) for option in ("plain", "A shared by two", "A shared by three")),
    *(("TINYLORA", option) for option in ("plain", "vectors of 70 %")),
    *(("ADALORA", "two layers"), ("ADAPTION_PROMPT", "plain"), ("C3A", "blocks of a layer"), ("VERA", "first layer")),
    *(("FOURIERFT", "frequencies of a layer"), ("VBLORA", "expression of layers"), ("RANDLORA", "plain")),
    *(("UNILORA", "module of one layer"), ("PREFIX_TUNING", "plain"), ("WAVEFT", "frequencies of a layer")),
}
DEEP_CASES = [
    *(("LORA", option) for option in ("expression of layers", "excluded layers", "rank of a layer")),
    *(("LILY", option) for option in ("plain", "A shared by two", "A shared by three")),
    *(("TINYLORA", "vectors of 70 %"), ("ADAPTION_PROMPT", "three prompted layers"), ("IA3", "plain")),
    *(("FOURIERFT", "frequencies of a layer"), ("VERA", "two layers"), ("ADALORA", "module of one layer")),
]


def stock_count(spec: ModelSpec, kind: str, values: Mapping[str, Any], *, device: str = "cpu") -> int:
    """What PEFT alone trains on the whole model."""
    config_class = PEFT_TYPE_TO_CONFIG_MAPPING[kind]
    known = {field.name for field in fields(config_class)}
    chosen = dict(values)
    if "target_modules" in known and not {"target_modules", "target_parameters"} & set(values):
        chosen |= {} if kind in NO_TARGETS else DEFAULTS.get(kind, Q_AND_V)
    config = transformers.AutoConfig.from_pretrained(spec.source)
    config.use_cache = False
    with torch.device(device):
        whole = auto_class(spec.task).from_config(config)
        model = peft.get_peft_model(whole, config_class(task_type=spec.traits.peft_task_type, **chosen))
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def traced_count(spec: ModelSpec, strategy: StrategyConfig) -> int:
    """What follows from the depths that are traced, without the trace."""
    depths = TraceStore("cpu", None, None).depths(spec, strategy, EXECUTION)

    def built(layers: int | None) -> int:
        request = TraceRequest(spec, strategy, EXECUTION, EXECUTION.max_seq_length, num_hidden_layers=layers)
        with TraceSession(request) as session:
            return session.parameter_counts()[0]

    if depths is None:
        return built(None)
    shallow = built(depths.shallow)
    return shallow + depths.repeats * (built(depths.deeper) - shallow)


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    return tiny_spec("llama", MODELS["llama"], tmp_path_factory.mktemp("model"), num_hidden_layers=LAYERS)


@pytest.mark.parametrize(
    ("kind", "option"), [pytest.param(*case, marks=() if case in EVERYDAY else pytest.mark.slow) for case in CASES]
)
def test_as_many_as_stock_peft(kind: str, option: str, spec: ModelSpec) -> None:
    values = {**VALUES.get(kind, {}), **OPTIONS[option]}
    assert traced_count(spec, peft_strategy(kind, values)) == stock_count(spec, kind, values)


@pytest.mark.parametrize(
    ("kind", "option"),
    [pytest.param(*case, marks=() if case[0] == "TINYLORA" else pytest.mark.slow) for case in DEEP_CASES],
)
def test_of_28_layers(kind: str, option: str, tmp_path: Path) -> None:
    deep = tiny_spec("llama", MODELS["llama"], tmp_path, num_hidden_layers=DEEP)
    values = {**VALUES.get(kind, {}), **OPTIONS[option]}
    assert traced_count(deep, peft_strategy(kind, values)) == stock_count(deep, kind, values, device="meta")


@pytest.mark.parametrize(
    ("kind", "option"),
    [
        ("LILY", "A shared by two"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [("LORA", "expression of layers"), ("VERA", "plain")]
        ),
    ],
)
def test_a_trace_has_this_count(kind: str, option: str, spec: ModelSpec) -> None:
    values = {**VALUES.get(kind, {}), **OPTIONS[option]}
    family = TraceStore("cpu", None, None).get(spec, peft_strategy(kind, values), EXECUTION)
    assert family.trainable_parameters(1) == stock_count(spec, kind, values)


@pytest.mark.parametrize("layers", [r".*layer\.[0-2]\.", r".*layer\.[5-7]\.", r".*layer\.\d\."])
def test_a_classifier_with_its_head(layers: str, tmp_path: Path) -> None:
    spec = tiny_spec("bert", MODELS["bert"], tmp_path, num_hidden_layers=LAYERS)
    values = {"r": 8, "target_modules": layers + r"attention\.self\.(query|value)"}
    head = {"modules_to_save": ["classifier", "pooler"]}
    assert traced_count(spec, peft_strategy("LORA", values)) == stock_count(spec, "LORA", values | head)


def test_experts_that_are_as_deep_as_the_model(spec: ModelSpec, tmp_path: Path) -> None:
    values = {"adapters": save_experts(spec, tmp_path), "hidden_size": 128}
    assert traced_count(spec, peft_strategy("XLORA", values)) == stock_count(spec, "XLORA", values)


def test_most_pairs_are_tried() -> None:
    """396 of PEFT 0.21.2; every option is one of some method."""
    assert len(CASES) >= 396
    assert {option for _, option in CASES} == set(OPTIONS)
    assert set(DEEP_CASES) | EVERYDAY <= set(CASES)
    assert {kind for kind, _ in CASES} <= set(KINDS)
