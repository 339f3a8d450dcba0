"""Drawn configurations of every method of PEFT train as many parameters as stock PEFT does on the whole model.

What one option says of layers is in ``test_trainable_counts.py``; here options meet: targets, layers, ranks,
exclusions, saved modules and trained tokens, on stacks of several architectures and depths.
"""

from __future__ import annotations

import functools
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from hypothesis import given, note, settings
from hypothesis import strategies as st
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

from advisor.core.errors import AdvisorError
from advisor.core.model import ModelSpec
from advisor.strategies.skeleton import auto_class
from tests.strategies.test_trainable_counts import NO_TARGETS, traced_count
from tests.tracing.peft_methods import VALUES, peft_strategy, traced_kinds
from tests.tracing.tiny import main_task, tiny_spec

TINY = {"hidden_size": 64, "vocab_size": 100}
STACKS: dict[str, dict[str, Any]] = {
    "llama": {**TINY, "intermediate_size": 128},
    "mistral": {**TINY, "intermediate_size": 128, "tie_word_embeddings": True},
    "bert": {**TINY, "intermediate_size": 128},
    "gpt2": {"n_embd": 64, "vocab_size": 100},
}
"""Each architecture, narrow; depth is drawn."""

LAYERS = {"llama": "layers", "mistral": "layers", "bert": "layer", "gpt2": "h"}
"""What the architecture calls its stack."""
LINEARS = {
    "llama": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj"),
    "mistral": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj"),
    "bert": ("query", "key", "value", "intermediate.dense"),
    "gpt2": ("c_attn", "c_fc"),
}
FEEDFORWARD = {"llama": "mlp.down_proj", "mistral": "mlp.down_proj", "bert": "output.dense", "gpt2": "mlp.c_proj"}
"""What is saved whole beside the adapters; none of it is a target, which PEFT refuses."""
ATTENTION = {"llama": "self_attn.", "mistral": "self_attn.", "bert": "attention.self.", "gpt2": "attn."}
NORMS = {
    "llama": ("input_layernorm", "norm"),
    "mistral": ("input_layernorm", "norm"),
    "bert": ("output.LayerNorm", "LayerNorm"),
    "gpt2": ("ln_1", "ln_f"),
}
OF_CONV1D = (
    "ADALORA",
    "ADAPTION_PROMPT",
    "CPT",
    "FOURIERFT",
    "GRALORA",
    "HIRA",
    "IA3",
    "LN_TUNING",
    "LORA",
    "PREFIX_TUNING",
    "PROMPT_TUNING",
    "PVERA",
    "P_TUNING",
    "RANDLORA",
    "TINYLORA",
    "TRAINABLE_TOKENS",
    "UNILORA",
    "VBLORA",
    "VERA",
)
"""Types that know GPT-2's transposed linear layers; PEFT refuses the others there."""
DEPTHS = (3, 4, 5, 6, 7, 9)
"""Depths of most examples; one in forty has 28 layers."""

TOKENS = st.lists(st.integers(0, 99), min_size=1, max_size=3, unique=True)


@functools.cache
def stack(name: str, layers: int) -> ModelSpec:
    depth = {"n_layer": layers} if name == "gpt2" else {"num_hidden_layers": layers}
    return tiny_spec(name, main_task(name), _folder(), **STACKS[name], **depth)


@functools.cache
def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="stacks-"))


@functools.cache
def known_fields(kind: str) -> frozenset[str]:
    return frozenset(field.name for field in fields(PEFT_TYPE_TO_CONFIG_MAPPING[kind]))


def module_names(name: str, layers: int, linears: tuple[str, ...]) -> st.SearchStrategy[Any]:
    """What a configuration may say to name modules: suffixes, some of one layer, expressions of layers."""
    number = st.integers(0, layers - 1)
    part = st.sampled_from(linears)
    prefix = "" if linears == NORMS[name] else ATTENTION[name]
    of_layer = number.map(lambda n: f"{LAYERS[name]}.{n}.{prefix}{linears[0]}")
    span = st.tuples(number, number).map(lambda pair: f"[{min(pair)}-{max(pair)}]" if max(pair) < 10 else r"\d+")
    expression = st.tuples(span, part).map(lambda pair: rf".*\.{LAYERS[name]}\.{pair[0]}\..*{pair[1].split('.')[-1]}")
    return st.one_of(
        st.lists(part, min_size=1, max_size=3, unique=True),
        st.lists(st.one_of(part, of_layer), min_size=1, max_size=3, unique=True),
        expression,
    )


def patterns(name: str, layers: int, linears: tuple[str, ...], values: st.SearchStrategy[int]) -> Any:
    """Keys as PEFT matches them, at the end of a module's name: a suffix, one layer's, an expression."""
    number, part = st.integers(0, layers - 1), st.sampled_from(linears)
    keys = st.one_of(
        part,
        st.tuples(number, part).map(lambda pair: rf"{LAYERS[name]}\.{pair[0]}\..*{pair[1]}"),
        st.tuples(number, number, part).map(lambda x: rf".*\.{LAYERS[name]}\.({x[0]}|{x[1]})\..*{x[2]}"),
    )
    return st.dictionaries(keys, values, min_size=1, max_size=2)


@st.composite
def configurations(draw: st.DrawFn) -> tuple[str, int, str, dict[str, Any]]:
    """Architecture, depth, type and values, all of whose fields the type has."""
    name = draw(st.sampled_from(sorted(STACKS)))
    layers = 28 if draw(st.integers(1, 40)) == 40 else draw(st.sampled_from(DEPTHS))
    kinds = OF_CONV1D if name == "gpt2" else traced_kinds("bert" if name == "bert" else "llama")
    kind = draw(st.sampled_from([kind for kind in kinds if kind != "XLORA"]))
    linears = NORMS[name] if kind == "LN_TUNING" else LINEARS[name]
    names = module_names(name, layers, linears)
    number = st.integers(0, layers - 1)
    head = ["classifier"] if name == "bert" else ["lm_head"]
    saved = [*head, *(f"{LAYERS[name]}.{n}.{FEEDFORWARD[name]}" for n in (0, layers - 1)), FEEDFORWARD[name]]
    known = known_fields(kind)
    options: dict[str, st.SearchStrategy[Any]] = {
        "layers_to_transform": st.one_of(number, st.lists(number, min_size=1, max_size=3, unique=True)),
        "exclude_modules": module_names(name, layers, linears[-2:]),
        "modules_to_save": st.lists(st.sampled_from(saved), min_size=1, max_size=2, unique=True),
        "bias": st.sampled_from(["none", "all"]),
        "trainable_token_indices": TOKENS,
        "rank_pattern": patterns(name, layers, linears, st.integers(1, 6)),
        "alpha_pattern": patterns(name, layers, linears, st.integers(1, 6)),
        "n_frequency_pattern": patterns(name, layers, linears, st.integers(1, 50)),
        "r": st.sampled_from([2, 4, 8]),
        "init_r": st.sampled_from([2, 6, 12]),
        "target_r": st.sampled_from([1, 2]),
        "adapter_len": st.integers(1, 6),
        "adapter_layers": st.integers(1, layers),
        "stride_A": st.integers(1, 4),
        "num_B": st.integers(2, 4),
        "block_share": st.booleans(),
        "prefix_projection": st.booleans(),
        "num_virtual_tokens": st.integers(1, 12),
        "weight_tying": st.sampled_from([0.0, 0.3, 0.5, 1.0]),
        "use_dora": st.booleans(),
        "lora_bias": st.booleans(),
        "proportional_parameters": st.booleans(),
    }
    values = dict(VALUES.get(kind, {}))
    if "target_modules" in known and kind not in NO_TARGETS:
        values["target_modules"] = draw(names)
    if kind == "ROAD":
        values["group_size"] = 32
    if kind == "IA3":
        values["feedforward_modules"] = []
    offered = sorted(known & set(options))
    for option in draw(st.lists(st.sampled_from(offered), max_size=4, unique=True)) if offered else ():
        values[option] = draw(options[option])
    if "layers_to_transform" in values and "layers_pattern" in known and draw(st.booleans()):
        values["layers_pattern"] = LAYERS[name]
    return name, layers, kind, values


def stock_count(spec: ModelSpec, kind: str, values: dict[str, Any]) -> int | None:
    """What PEFT alone trains on the whole model; ``None`` where it refuses. Values matter to a few: no meta there."""
    chosen = dict(values)
    if spec.traits.new_head and "modules_to_save" in known_fields(kind):
        chosen["modules_to_save"] = sorted({*chosen.get("modules_to_save", ()), "classifier", "pooler"})
    if "fan_in_fan_out" in known_fields(kind):
        chosen["fan_in_fan_out"] = spec.model_type == "gpt2"
    config = transformers.AutoConfig.from_pretrained(spec.source)
    config.use_cache = False
    for device in ("meta", "cpu"):
        try:
            with torch.device(device):
                whole = auto_class(spec.task).from_config(config)
                wanted = PEFT_TYPE_TO_CONFIG_MAPPING[kind](task_type=spec.traits.peft_task_type, **chosen)
                model = peft.get_peft_model(whole, wanted)
        except Exception as failure:
            note(f"stock PEFT on {device}: {failure!r}")
            continue
        return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return None


def check(name: str, layers: int, kind: str, values: dict[str, Any]) -> None:
    spec = stack(name, layers)
    try:
        found: int | None = traced_count(spec, peft_strategy(kind, values))
    except AdvisorError as refused:
        note(f"refused: {refused}")
        found = None
    assert found == stock_count(spec, kind, values)


@settings(max_examples=15)
@given(drawn=configurations())
def test_as_many_as_stock_peft(drawn: tuple[str, int, str, dict[str, Any]]) -> None:
    check(*drawn)


@pytest.mark.slow
@settings(max_examples=2000)
@given(drawn=configurations())
def test_as_many_as_stock_peft_often(drawn: tuple[str, int, str, dict[str, Any]]) -> None:
    check(*drawn)
